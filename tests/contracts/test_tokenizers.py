"""Edits do not depend on how a tokenizer pads, and find the subject behind a token in front.

The other contracts know a GPT-2 without such a token and a Llama with it; here it is the other way
round.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fleke_flwr.editors.base import EDITORS
from fleke_flwr.models import EditableModel
from tests.conftest import LoadTiny, TinyFamily
from tests.contracts.recipes import cell
from tests.contracts.test_editors import ADDITIVE, REQUESTS, assert_adds_up

FIRST = "<|endoftext|>"
NOT_AS_USUAL = {"gpt2": True, "llama": False}
SIDES = ("left", "right")


def with_tokenizer(source: Path, place: Path, add_bos: bool, side: str) -> Path:
    """Copy a model; its tokenizer puts a token in front of every text or not, and pads so."""
    shutil.copytree(source, place)
    backend = AutoTokenizer.from_pretrained(source).backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    if add_bos:
        special = [(FIRST, backend.token_to_id(FIRST))]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{FIRST} $A", special_tokens=special
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=FIRST, eos_token=FIRST, padding_side=side
    )
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module", params=sorted(NOT_AS_USUAL))
def models(
    request: pytest.FixtureRequest,
    tiny_family: TinyFamily,
    load_tiny: LoadTiny,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, EditableModel]:
    """Return a model by the side on which its tokenizer is set up to pad."""
    name, folder = request.param, tmp_path_factory.mktemp("padding")
    found = {}
    for side in SIDES:
        place = with_tokenizer(tiny_family(name), folder / side, NOT_AS_USUAL[name], side)
        found[side] = load_tiny(place)
        first = found[side].tokenizer("Mira Tolen")["input_ids"][0]
        assert (first == found[side].tokenizer.bos_token_id) == NOT_AS_USUAL[name]
    return found


@pytest.mark.parametrize("name", EDITORS.names())
def test_the_side_of_the_padding_changes_no_bit(
    name: str, models: dict[str, EditableModel], tmp_path: Path
) -> None:
    found = {}
    for side, model in models.items():
        (tmp_path / side).mkdir()
        found[side] = cell(name, model, tmp_path / side).edit(REQUESTS)
    for module, update in found["right"].items():
        assert torch.equal(found["left"][module].dense(), update.dense())


@pytest.mark.parametrize("name", ADDITIVE)
def test_one_by_one_is_together_with_the_other_tokenizer(
    name: str, models: dict[str, EditableModel], tmp_path: Path
) -> None:
    assert_adds_up(cell(name, models["left"], tmp_path))

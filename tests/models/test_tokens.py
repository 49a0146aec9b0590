"""Where the subject and the target are, for tokenizers with and without a BOS token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fleke_flwr.errors import RequestError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.contexts import sample_contexts
from fleke_flwr.models.tokens import (
    encode,
    encode_with_spans,
    neutral,
    pad_batch,
    subject_position,
    target_ids,
)

LoadTiny = Callable[..., EditableModel]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


@pytest.mark.parametrize(
    "template",
    [
        "{} lives in",
        "The home town of {} is",
        "The home town is that of {}",
        "In {}'s town, the river",
    ],
)
@pytest.mark.parametrize("subject", ["Mira Tolen", "Ada", "Zoë Čapek-日本", "a {b}"])
def test_subject_position(model: EditableModel, template: str, subject: str) -> None:
    ids, position = subject_position(model, template, subject)
    text = template.replace("{}", subject)
    assert ids == encode(model, text)
    before = model.tokenizer.decode(ids[:position], skip_special_tokens=True).lstrip()
    upto = model.tokenizer.decode(ids[: position + 1], skip_special_tokens=True).lstrip()
    end = template.index("{}") + len(subject)
    assert len(before.rstrip("\ufffd")) < end
    assert upto.rstrip() == text[:end]


def test_bos_is_kept(tiny_llama: Path, tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    assert encode(load_tiny(tiny_llama), "Ada")[0] == 0
    assert encode(load_tiny(tiny_gpt2), "Ada")[0] != 0


def test_target_follows_a_space(model: EditableModel) -> None:
    text = "Mira Tolen lives in"
    ids = target_ids(model, "New Elster")
    assert encode(model, text) + ids == encode(model, text + " New Elster")
    assert model.tokenizer.decode(ids) == " New Elster"


def test_too_long_text_is_refused(model: EditableModel) -> None:
    with pytest.raises(RequestError, match="longer than the 96"):
        encode_with_spans(model, "river " * 200)


def test_padding_is_on_the_right(model: EditableModel) -> None:
    ids, lengths = pad_batch(model, [[5, 6, 7], [8]])
    assert ids[:, 0].tolist() == [5, 8]
    assert lengths.tolist() == [3, 1]
    assert ids.shape == (2, 3)


def test_slots_must_be_single(model: EditableModel) -> None:
    with pytest.raises(RequestError, match="exactly one slot"):
        subject_position(model, "{} and {}", "Ada")


def test_contexts_are_seeded_templates(model: EditableModel) -> None:
    first = sample_contexts(model, count=6, length=8, seed=3)
    torch.manual_seed(99)
    assert sample_contexts(model, count=6, length=8, seed=3) == first
    assert sample_contexts(model, count=6, length=8, seed=4) != first
    assert first[0] == "{}"
    assert len(first) == 7
    assert all(context.count("{}") == 1 and context.endswith(". {}") for context in first[1:])
    assert neutral("a {b}") == "a  b "

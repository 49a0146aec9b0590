"""The fast code against literal transcriptions of the published edits, from request to weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from fleke_flwr.editors.alphaedit import AlphaEdit
from fleke_flwr.editors.base import Editor
from fleke_flwr.editors.covariance import second_moments
from fleke_flwr.editors.emmet import Emmet
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.modes import pooled
from fleke_flwr.editors.pmet import Pmet
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest
from tests.conftest import corpus, save_tiny, train_tokenizer
from tests.editors import transcriptions
from tests.editors.cases import awkward_requests
from tests.editors.reference import one_pmet_target, one_target, spec_of

Transcription = Callable[
    [EditableModel, EditSpec, Sequence[EditRequest], Tensor, Mapping[str, Tensor]],
    dict[str, Tensor],
]


@dataclass(frozen=True)
class Scene:
    """A model, the second moments of its keys, and targets that the slow twins found."""

    model: EditableModel
    moments: Mapping[str, Tensor]
    memit: Tensor
    pmet: Tensor


@pytest.fixture(scope="module")
def narrow_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a GPT-2 whose projections are as wide as there are requests: no dual form is used."""
    tokenizer = train_tokenizer(add_bos=False)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=96, n_embd=32, n_layer=4, n_head=4, n_inner=5,
        initializer_range=0.3, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(2)
    return save_tiny(tmp_path_factory.mktemp("narrow"), GPT2LMHeadModel(config), tokenizer)


@pytest.fixture(params=["tiny_gpt2", "tiny_llama", "narrow_gpt2"], scope="module")
def scene(
    request: pytest.FixtureRequest,
    load_tiny: Callable[..., EditableModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Scene:
    path: Path = request.getfixturevalue(request.param)
    model = load_tiny(path)
    cache = tmp_path_factory.mktemp("covariance")
    moments = second_moments(model, corpus(), [0, 1, 2], 2000, cache, Silent())
    spec, requests = spec_of(model, steps=4), awkward_requests()
    return Scene(
        model,
        moments,
        torch.stack([one_target(model, spec, one)[0] for one in requests], 1),
        torch.stack([one_pmet_target(model, spec, one).mlp for one in requests], 1),
    )


def threshold(moments: Mapping[str, Tensor]) -> float:
    """Return a number that lies between the eigenvalues of every module."""
    spectra = [torch.linalg.eigvalsh(moment) for moment in moments.values()]
    middles = [values[len(values) // 2 - 1 :][:2].mean() for values in spectra]
    return float(sum(middles)) / len(middles)


@pytest.mark.parametrize(
    ("kind", "transcription", "options"),
    [
        (Memit, transcriptions.memit, {}),
        (Pmet, transcriptions.pmet, {}),
        (Emmet, transcriptions.emmet, {"equality": 0.1}),
        (AlphaEdit, transcriptions.alphaedit, {"l2": 0.5}),
    ],
)
@pytest.mark.parametrize("layers", [(0, 1, 2), (2,)])
def test_an_edit_is_the_published_one(
    scene: Scene,
    kind: type[Editor],
    transcription: Transcription,
    options: dict[str, Any],
    layers: tuple[int, ...],
) -> None:
    model, requests = scene.model, awkward_requests()
    moments = {module: scene.moments[module] for module in map(model.module_name, layers)}
    if kind is AlphaEdit:
        options = {**options, "nullspace-threshold": threshold(moments)}
    editor = kind(spec_of(model, mode="layer_sync", layers=layers, steps=4, options=options))
    found = scene.pmet if kind is Pmet else scene.memit
    expected = transcription(model, editor.spec, requests, found, moments)
    targets = editor.targets(model, requests)
    priors = editor.priors(model, lambda: moments)
    updates = pooled(editor, model, requests, targets, priors)
    assert set(updates) == set(expected) == set(moments)
    for module, delta in expected.items():
        difference = float((updates[module].dense() - delta).norm() / delta.norm())
        assert difference < 1e-8, (module, difference)

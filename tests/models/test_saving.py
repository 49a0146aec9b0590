"""A saved model is the edited one, bit for bit, in a process without this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fleke_flwr.config import ModelConfig
from fleke_flwr.errors import ModelError
from fleke_flwr.models import EditableModel, load_model
from fleke_flwr.models.saving import save_edited
from fleke_flwr.state import EditState
from tests.models.elsewhere import logits_elsewhere, logits_here
from tests.models.made_edits import made_state

LoadTiny = Callable[..., EditableModel]
Saved = dict[str, tuple[Path, EditableModel, EditState, dict[str, float]]]

# Base, format of the run, format of the saved weights.
KINDS = {
    "gpt2": ("tiny_gpt2", "float32", "float32"),
    "llama": ("tiny_llama", "float32", "float32"),
    "gpt2 bfloat16": ("tiny_gpt2", "bfloat16", "bfloat16"),
    "llama float16": ("tiny_llama", "float32", "float16"),
}


@pytest.fixture(scope="module")
def saved(
    tiny_gpt2: Path,
    tiny_llama: Path,
    load_tiny: LoadTiny,
    tmp_path_factory: pytest.TempPathFactory,
) -> Saved:
    folder, bases = tmp_path_factory.mktemp("saved"), {"tiny_gpt2": tiny_gpt2}
    bases["tiny_llama"] = tiny_llama
    made = {}
    for name, (base, dtype, target) in KINDS.items():
        model = load_tiny(bases[base], dtype=dtype)
        state = made_state(model)
        lost = save_edited(model, state.updates, folder / name, getattr(torch, target))
        made[name] = (folder / name, model, state, lost)
    return made


@pytest.fixture(scope="module")
def elsewhere(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    orders = {name: {"model": made[0]} for name, made in saved.items()}
    return logits_elsewhere(orders, tmp_path_factory.mktemp("logits"))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt2 bfloat16"])
def test_logits_are_those_of_the_applied_state(
    name: str, saved: Saved, elsewhere: dict[str, Tensor]
) -> None:
    _, model, state, _ = saved[name]
    before = logits_here(model)
    with state.applied(model.model):
        wanted = logits_here(model)
    assert torch.equal(elsewhere[name], wanted)
    assert not torch.equal(before, wanted)


def test_weights_are_stored_in_one_format(saved: Saved) -> None:
    for name, (_, _, target) in KINDS.items():
        tensors = load_file(saved[name][0] / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, target)}


def test_rounding_is_reported(saved: Saved) -> None:
    exact, half = saved["llama"][3], saved["llama float16"][3]
    assert all(value < 1e-5 for value in exact.values())
    assert all(1e-4 < value < 1e-1 for value in half.values())
    directory, model, state, lost = saved["llama float16"]
    stored = load_file(directory / "model.safetensors")
    for name, update in state.updates.items():
        base = model.model.get_submodule(name).weight
        assert isinstance(base, Tensor)
        change = update.dense().double()
        missed = stored[f"{name}.weight"].double() - base.double() - change
        assert lost[name] == pytest.approx(float(missed.norm() / change.norm()), rel=1e-9)


def test_half_precision_stays_close(
    saved: Saved,
    elsewhere: dict[str, Tensor],
) -> None:
    _, model, state, _ = saved["llama float16"]
    with state.applied(model.model):
        wanted = logits_here(model)
    difference = (elsewhere["llama float16"].float() - wanted).abs().max()
    assert 0 < difference < 0.02 * wanted.abs().max()


def test_the_saved_model_is_a_base_model_again(saved: Saved) -> None:
    directory, model, state, _ = saved["gpt2"]
    again = load_model(ModelConfig(name=str(directory)))
    assert again.settings == model.settings
    assert again.fingerprint != model.fingerprint
    assert not (directory / "corpus.txt").exists()
    # It is tied to the embedding.
    assert "lm_head.weight" not in load_file(directory / "model.safetensors")
    assert state.base == model.fingerprint


def test_another_models_edits_are_refused(
    tiny_gpt2: Path, tiny_llama: Path, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2, dtype="float32")
    state = made_state(load_tiny(tiny_llama, dtype="float32"))
    with pytest.raises(ModelError, match="another model's"):
        save_edited(model, state.updates, tmp_path / "out", torch.float32)
    assert not (tmp_path / "out").exists()

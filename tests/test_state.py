"""The edit state: applied exactly, restored exactly, saved exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fleke_flwr.errors import DataError, ModelError
from fleke_flwr.models import EditableModel
from fleke_flwr.state import EditState, applied, updates_of
from fleke_flwr.types import LayerUpdate

LoadTiny = Callable[..., EditableModel]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


def update_for(model: EditableModel, layer: int) -> LayerUpdate:
    torch.manual_seed(layer)
    wide = torch.float64
    return LayerUpdate(
        torch.randn(model.d_model, 2, dtype=wide),
        torch.randn(2, model.input_width(layer), dtype=wide),
    )


def state_for(model: EditableModel) -> EditState:
    return EditState(model.fingerprint).plus(
        {model.module_name(layer): update_for(model, layer) for layer in (0, 2)}, 1
    )


def test_applied_changes_the_output_by_the_update(model: EditableModel) -> None:
    update = update_for(model, 1)
    keys = torch.randn(4, model.input_width(1), dtype=torch.float64)
    before = model.projection(1)(keys)
    with applied(model.model, {model.module_name(1): update}):
        after = model.projection(1)(keys)
    torch.testing.assert_close(after - before, keys @ update.dense().T)


def test_weights_come_back_bit_for_bit(model: EditableModel) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    state = state_for(model)

    def broken() -> None:
        with state.applied(model.model):
            raise KeyboardInterrupt

    with state.applied(model.model), state.applied(model.model):
        assert not torch.equal(model.projection(0).weight, before[f"{model.module_name(0)}.weight"])
    with pytest.raises(KeyboardInterrupt):
        broken()
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_foreign_update_is_refused_and_leaves_no_trace(model: EditableModel) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    good = {model.module_name(0): update_for(model, 0)}
    with (
        pytest.raises(ModelError, match="another model's"),
        applied(model.model, {**good, "no.such.module": update_for(model, 0)}),
    ):
        pytest.fail("must not be entered")
    wrong = LayerUpdate(torch.zeros(model.d_model, 3))
    with (
        pytest.raises(ModelError, match="another model's"),
        applied(model.model, {**good, model.module_name(1): wrong}),
    ):
        pytest.fail("must not be entered")
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_fingerprint_follows_the_content(model: EditableModel) -> None:
    state = state_for(model)
    assert state.fingerprint == state_for(model).fingerprint
    assert state.fingerprint != EditState(model.fingerprint).fingerprint
    assert state.fingerprint != EditState("f" * 16, 1, state.updates).fingerprint
    name = model.module_name(0)
    other = EditState(state.base, 1, {**state.updates, name: state.updates[name].scaled(1.001)})
    assert state.fingerprint != other.fingerprint


def test_saved_states_come_back(model: EditableModel, tmp_path: Path) -> None:
    state = state_for(model).plus({model.module_name(1): LayerUpdate(torch.ones(3, 4))}, 2)
    state.save(tmp_path / "edits.safetensors")
    loaded = EditState.load(tmp_path / "edits.safetensors")
    assert (loaded.base, loaded.round) == (state.base, 2)
    assert loaded.fingerprint == state.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["edits.safetensors"]


def test_rounds_add_up(model: EditableModel) -> None:
    state = state_for(model)
    twice = state.plus(state.updates, 2)
    name = model.module_name(0)
    torch.testing.assert_close(twice.updates[name].dense(), 2 * state.updates[name].dense())
    assert (state.round, twice.round) == (1, 2)


def test_files_that_are_no_states_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match="no such file"):
        EditState.load(path)
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(DataError, match="damaged"):
        EditState.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="not an edit state"):
        EditState.load(path)
    with pytest.raises(DataError, match="has parts"):
        updates_of({"m/left": torch.zeros(2, 2)})

"""Editing from memory vectors alone, against what text gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.modes import exchange_statistics, pooled, solve_groups
from fleke_flwr.editors.vectors import (
    known,
    memory_vectors,
    residuals,
    stacked_keys,
    vector_statistics,
)
from fleke_flwr.errors import PayloadError
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest, LayerUpdate, MemoryVectors
from tests.conftest import LoadTiny
from tests.editors.cases import awkward_requests
from tests.editors.reference import spec_of


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


def editor_for(model: EditableModel, mode: str) -> Memit:
    return Memit(spec_of(model, mode=mode, spread="even", steps=4))


def priors_of(model: EditableModel, editor: Memit) -> dict[str, Prior]:
    generator = torch.Generator().manual_seed(5)
    found = {}
    for layer in editor.spec.layers:
        width = model.input_width(layer)
        samples = torch.randn(width, 3 * width, generator=generator, dtype=torch.float64)
        found[model.module_name(layer)] = Prior.from_matrix(samples @ samples.T / width)
    return found


def shared(
    model: EditableModel, editor: Memit, requests: list[EditRequest]
) -> tuple[MemoryVectors, list[str]]:
    targets = editor.targets(model, requests)
    modules = [model.module_name(layer) for layer in editor.spec.layers]
    return memory_vectors(editor, model, requests, targets), modules


@pytest.mark.parametrize("mode", ["joint", "anticipated", "frozen"])
def test_vectors_give_the_edit_that_text_gives(model: EditableModel, mode: str) -> None:
    editor, requests = editor_for(model, mode), awkward_requests()[:3]
    priors = priors_of(model, editor)
    vectors, modules = shared(model, editor, requests)
    found = solve_groups(vector_statistics(vectors, {}, mode, modules), priors, mode)
    expected = pooled(editor, model, requests, editor.targets(model, requests), priors)
    for module, update in expected.items():
        torch.testing.assert_close(found[module].dense(), update.dense(), rtol=1e-8, atol=1e-11)


def test_the_remaining_residual_is_smaller_after_the_edit(model: EditableModel) -> None:
    editor, requests = editor_for(model, "joint"), awkward_requests()[:3]
    vectors, modules = shared(model, editor, requests)
    before = residuals(vectors, {})
    updates = solve_groups(
        vector_statistics(vectors, {}, "joint", modules), priors_of(model, editor), "joint"
    )
    after = residuals(vectors, updates)
    assert (after.norm(dim=0) < before.norm(dim=0)).all()
    dense = {name: LayerUpdate(update.dense()) for name, update in updates.items()}
    torch.testing.assert_close(residuals(vectors, dense), after)


def test_the_first_order_residual_is_exact_for_a_single_last_layer(model: EditableModel) -> None:
    """With only the last edited layer changed nothing lies between the update and the target."""
    base = editor_for(model, "frozen")
    editor = Memit(replace(base.spec, layers=base.spec.layers[-1:], contexts=("{}",)))
    requests = awkward_requests()[:3]
    vectors, modules = shared(model, editor, requests)
    updates = solve_groups(
        vector_statistics(vectors, {}, "frozen", modules), priors_of(model, editor), "frozen"
    )
    with applied(model.model, updates):
        hidden = editor.readings(model, requests, editor.spec.layers).hidden
    torch.testing.assert_close(residuals(vectors, updates), vectors.targets.double().T - hidden)


def test_protected_keys_keep_their_output(model: EditableModel) -> None:
    editor, requests = editor_for(model, "frozen"), awkward_requests()[:4]
    priors = priors_of(model, editor)
    mine, modules = shared(model, editor, requests[:2])
    theirs, _ = shared(model, editor, requests[2:])
    statistics = vector_statistics(theirs, {}, "frozen", modules)
    free = solve_groups(statistics, priors, "frozen")
    guarded = solve_groups(statistics, priors, "frozen", stacked_keys(mine))
    for module in modules:
        keys = mine.keys[module].T
        assert (guarded[module].dense() @ keys).norm() < (free[module].dense() @ keys).norm()
        prior = Prior.from_matrix(priors[module].matrix() + keys @ keys.T)
        twin = solve_groups({module: statistics[module]}, {module: prior}, "frozen")[module]
        torch.testing.assert_close(guarded[module].dense(), twin.dense(), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("mode", ["joint", "frozen", "layer_sync"])
def test_protection_by_text_is_a_larger_prior(model: EditableModel, mode: str) -> None:
    editor, requests = editor_for(model, mode), awkward_requests()[:4]
    priors = priors_of(model, editor)
    mine, modules = shared(model, editor, requests[:2])
    targets = editor.targets(model, requests[2:])
    free = pooled(editor, model, requests[2:], targets, priors)
    guarded = pooled(editor, model, requests[2:], targets, priors, stacked_keys(mine))
    first = modules[0]
    keys = mine.keys[first].T
    assert (guarded[first].dense() @ keys).norm() < (free[first].dense() @ keys).norm()


def test_an_edit_that_is_made_is_known(model: EditableModel) -> None:
    editor, requests = editor_for(model, "joint"), awkward_requests()[:3]
    vectors, modules = shared(model, editor, requests)
    weak = {m: Prior.from_matrix(p.matrix() * 1e-8) for m, p in priors_of(model, editor).items()}
    updates = solve_groups(vector_statistics(vectors, {}, "joint", modules), weak, "joint")
    assert known(vectors, updates, 0.1).all()
    assert not known(vectors, {}, 0.1).any()
    nothing = MemoryVectors(vectors.hidden, vectors.hidden, vectors.keys)
    assert known(nothing, {}, 0.1).all()


def test_no_edits_are_legal(model: EditableModel) -> None:
    editor = editor_for(model, "joint")
    vectors, modules = shared(model, editor, [])
    assert len(vectors) == 0
    updates = solve_groups(
        vector_statistics(vectors, {}, "joint", modules), priors_of(model, editor), "joint"
    )
    assert all(float(update.dense().abs().sum()) == 0 for update in updates.values())
    assert exchange_statistics(editor, model, [], editor.targets(model, []), 0)


def test_vectors_that_do_not_fit_are_refused() -> None:
    two, three = torch.zeros(2, 4), torch.zeros(3, 4)
    with pytest.raises(PayloadError, match="one row per edit"):
        MemoryVectors(two, two, {"a": three})
    with pytest.raises(PayloadError, match="hidden"):
        MemoryVectors(two, torch.zeros(2, 5), {})
    with pytest.raises(PayloadError, match="keys of"):
        _ = MemoryVectors(two, two, {"a": two}) + MemoryVectors(two, two, {"b": two})

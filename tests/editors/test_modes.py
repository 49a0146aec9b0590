"""Statistics of several clients, summed and solved, are the centralised edit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fleke_flwr.editors import Editor, Readings, Targets
from fleke_flwr.editors.covariance import priors, second_moments
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.modes import (
    anticipated,
    exchange_statistics,
    exchange_update,
    pooled,
    solve_groups,
)
from fleke_flwr.errors import StatisticsError
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.models.hooks import captured_keys
from fleke_flwr.models.tokens import subject_position
from fleke_flwr.modes import MODES, exchanges_per_round
from fleke_flwr.progress import Silent
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest, LayerUpdate
from tests.conftest import corpus
from tests.editors.cases import awkward_requests
from tests.editors.reference import spec_of

LoadTiny = Callable[..., EditableModel]
Scene = tuple[EditableModel, dict[str, Prior]]
# Unequal clients, one of them empty; the duplicated request is split over two.
CLIENTS = ([0, 1, 2], [], [3], [4, 5])
EXACT = ["joint", "anticipated", "frozen", "layer_sync"]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"], scope="module")
def scene(
    request: pytest.FixtureRequest, load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    path: Path = request.getfixturevalue(request.param)
    model = load_tiny(path)
    cache = tmp_path_factory.mktemp("covariance")
    moments = second_moments(model, corpus(), [0, 1, 2], 2000, cache, Silent())
    return model, priors(moments, 10.0)


def federated(scene: Scene, editor: Editor, targets: Targets) -> dict[str, LayerUpdate]:
    """Run all exchanges of a round over the clients."""
    model, found = scene
    requests = awkward_requests()
    merged: dict[str, LayerUpdate] = {}
    with ExitStack() as edited:
        for exchange in range(exchanges_per_round(editor.spec.mode, 3)):
            parts = [
                exchange_statistics(
                    editor, model, [requests[i] for i in client], targets.rows(client), exchange
                )
                for client in CLIENTS
            ]
            total = {name: reduce(add, [part[name] for part in parts]) for name in parts[0]}
            updates = solve_groups(total, found, editor.spec.mode)
            merged.update(updates)
            edited.enter_context(applied(model.model, updates))
    return merged


def distance(first: dict[str, LayerUpdate], second: dict[str, LayerUpdate]) -> float:
    """Return the largest relative Frobenius distance over the modules."""
    assert set(first) == set(second)
    return max(
        float((first[name].dense() - second[name].dense()).norm() / second[name].dense().norm())
        for name in first
    )


@pytest.mark.parametrize("spread", ["even", "paper"])
@pytest.mark.parametrize("mode", EXACT)
def test_sums_over_clients_are_the_pooled_edit(scene: Scene, mode: str, spread: str) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode=mode, spread=spread))
    targets = editor.targets(model, awkward_requests())
    centralised = pooled(editor, model, awkward_requests(), targets, found)
    assert distance(federated(scene, editor, targets), centralised) < 1e-8


def test_anticipated_keys_are_read_where_the_shares_lead(scene: Scene) -> None:
    """One request at a time, whole model, shares added by hooks."""
    model, _ = scene
    editor = Memit(spec_of(model, mode="anticipated"))
    requests = awkward_requests()[:4]
    targets = editor.targets(model, requests)
    base = editor.readings(model, requests, editor.spec.layers)
    part = (targets.vectors.T - base.hidden) / 3
    moved = anticipated(editor, model, requests, targets)
    torch.testing.assert_close(moved.hidden, base.hidden)
    for number, request in enumerate(requests):
        keys = pushed_keys(editor, model, request, part[:, number])
        for layer, key in keys.items():
            torch.testing.assert_close(moved.keys[layer][:, number], key, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(moved.keys[0], base.keys[0])
    assert not torch.allclose(moved.keys[2], base.keys[2])


def pushed_keys(
    editor: Memit, model: EditableModel, request: EditRequest, part: Tensor
) -> dict[int, Tensor]:
    """Average keys over the contexts with ``part`` added behind the earlier edited blocks."""
    total: dict[int, Tensor] = {}
    contexts = editor.spec.contexts
    for context in contexts:
        template = context.replace("{}", request.prompt)
        ids, position = subject_position(model, template, request.subject)
        weight = 0.5 if context == "{}" else 0.5 / (len(contexts) - 1)
        if len(contexts) == 1:
            weight = 1.0
        handles = []
        for layer in editor.spec.layers[:-1]:

            def push(_: Any, __: Any, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                hidden = hidden.clone()
                hidden[:, position] += part  # noqa: B023  (used before the next turn)
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            handles.append(model.blocks[layer].register_forward_hook(push))
        try:
            with torch.no_grad(), captured_keys(model, editor.spec.layers) as captured:
                model.model(input_ids=torch.tensor([ids]), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        for layer, found in captured.items():
            key = found[0, position] * weight
            total[layer] = total[layer] + key if layer in total else key
    return total


def test_layers_in_turn_follow_their_formula(scene: Scene) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode="anticipated"))
    requests = awkward_requests()
    targets = editor.targets(model, requests)
    updates = pooled(editor, model, requests, targets, found)
    readings = anticipated(editor, model, requests, targets)
    left = targets.vectors.T - readings.hidden
    for index, layer in enumerate(editor.spec.layers):
        keys, name = readings.keys[layer], model.module_name(layer)
        prior = found[name].matrix()
        expected = torch.linalg.solve(prior + keys @ keys.T, keys @ (left / (3 - index)).T).T
        torch.testing.assert_close(updates[name].dense(), expected, rtol=1e-7, atol=1e-10)
        left = left - expected @ keys


def test_local_sequential_is_not_the_pooled_edit(scene: Scene) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode="local_sequential"))
    requests = awkward_requests()
    targets = editor.targets(model, requests)
    parts = [
        exchange_statistics(
            editor, model, [requests[i] for i in client], targets.rows(client), 0, found
        )
        for client in CLIENTS
    ]
    total = {name: reduce(add, [part[name] for part in parts]) for name in parts[0]}
    merged = solve_groups(total, found, editor.spec.mode)
    centralised = pooled(editor, model, requests, targets, found)
    first = model.module_name(0)
    assert distance({first: merged[first]}, {first: centralised[first]}) < 1e-8
    assert distance(merged, centralised) > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_one_client_alone_is_the_pooled_edit(scene: Scene, mode: str) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode=mode))
    requests = awkward_requests()
    targets = editor.targets(model, requests)
    centralised = pooled(editor, model, requests, targets, found)
    own: dict[str, LayerUpdate] = {}
    with ExitStack() as edited:
        for exchange in range(exchanges_per_round(mode, 3)):
            update = exchange_update(editor, model, requests, targets, exchange, found)
            own.update(update)
            edited.enter_context(applied(model.model, update))
    assert distance(own, centralised) < 1e-10


def explicit_memit(
    scene: Scene, readings: Callable[[int], Readings], targets: Targets
) -> dict[str, torch.Tensor]:
    """Solve layer after layer with plain dense linear algebra."""
    model, found = scene
    deltas: dict[str, torch.Tensor] = {}
    with ExitStack() as edited:
        for index, layer in enumerate([0, 1, 2]):
            name = model.module_name(layer)
            now = readings(layer)
            keys, wanted = now.keys[layer], (targets.vectors.T - now.hidden) / (3 - index)
            system = found[name].matrix() + keys @ keys.T
            deltas[name] = torch.linalg.solve(system, keys @ wanted.T).T
            edited.enter_context(applied(model.model, {name: LayerUpdate(deltas[name])}))
    return deltas


def test_layer_sync_is_memit(scene: Scene) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode="layer_sync"))
    requests = awkward_requests()
    targets = editor.targets(model, requests)
    expected = explicit_memit(
        scene, lambda layer: editor.readings(model, requests, [layer]), targets
    )
    updates = pooled(editor, model, requests, targets, found)
    for name, delta in expected.items():
        torch.testing.assert_close(updates[name].dense(), delta, rtol=1e-7, atol=1e-10)


def test_joint_minimises_the_stacked_ridge(scene: Scene) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode="joint"))
    requests = awkward_requests()
    targets = editor.targets(model, requests)
    updates = pooled(editor, model, requests, targets, found)
    now = editor.readings(model, requests, [0, 1, 2])
    names = [model.module_name(layer) for layer in (0, 1, 2)]
    deltas = [updates[name].dense().clone().requires_grad_() for name in names]
    missed = editor.residuals(targets, now) - sum(
        delta @ now.keys[layer] for layer, delta in enumerate(deltas)
    )
    loss = missed.square().sum() + sum(
        (delta @ found[name].matrix() * delta).sum()
        for name, delta in zip(names, deltas, strict=True)
    )
    for gradient in torch.autograd.grad(loss, deltas):
        assert float(gradient.abs().max()) < 1e-8


def test_frozen_spreads(scene: Scene) -> None:
    model, found = scene
    requests = awkward_requests()
    even, paper = (Memit(spec_of(model, mode="frozen", spread=s)) for s in ("even", "paper"))
    targets = even.targets(model, requests)
    spread = pooled(even, model, requests, targets, found)
    published = pooled(paper, model, requests, targets, found)
    for index, layer in enumerate((0, 1, 2)):
        name = model.module_name(layer)
        ratio = 3 / (3 - index)
        torch.testing.assert_close(published[name].dense(), ratio * spread[name].dense())


@pytest.mark.parametrize("mode", MODES)
def test_no_requests_give_a_zero_update(scene: Scene, mode: str) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode=mode))
    targets = editor.targets(model, [])
    statistics = exchange_statistics(editor, model, [], targets, 0, found)
    assert all(part.count == 0 for part in statistics.values())
    assert all(part.factors()[0].shape[1] == 0 for part in statistics.values())
    updates = pooled(editor, model, [], targets, found)
    assert set(updates) == {model.module_name(layer) for layer in (0, 1, 2)}
    assert all(not update.dense().any() for update in updates.values())


@pytest.mark.parametrize("mode", MODES)
def test_one_request_moves_its_hidden_state(scene: Scene, mode: str) -> None:
    model, found = scene
    light = {name: Prior((prior.blocks[0] * 1e-3,), (0.0,)) for name, prior in found.items()}
    editor = Memit(spec_of(model, mode=mode, contexts=("{}",)))
    requests = awkward_requests()[:1]
    targets = editor.targets(model, requests)
    updates = pooled(editor, model, requests, targets, light)
    before = editor.residuals(targets, editor.readings(model, requests, [0])).norm()
    with applied(model.model, updates):
        after = editor.residuals(targets, editor.readings(model, requests, [0])).norm()
    assert float(after) < float(before)


@pytest.mark.parametrize("mode", MODES)
def test_the_model_comes_back_bit_for_bit(scene: Scene, mode: str) -> None:
    model, found = scene
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    editor = Memit(spec_of(model, mode=mode))
    targets = editor.targets(model, awkward_requests())
    pooled(editor, model, awkward_requests(), targets, found)
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class Breaking(Memit):
    """An editor that breaks when it reads the last layer."""

    def readings(
        self, model: EditableModel, requests: list[EditRequest], layers: list[int]
    ) -> Readings:
        if layers == [2]:
            raise KeyboardInterrupt
        return super().readings(model, requests, layers)


def test_the_model_comes_back_after_an_exception(scene: Scene) -> None:
    model, found = scene
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    editor = Breaking(spec_of(model, mode="layer_sync"))
    targets = editor.targets(model, awkward_requests())
    with pytest.raises(KeyboardInterrupt):
        pooled(editor, model, awkward_requests(), targets, found)
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_is_missing_is_named(scene: Scene) -> None:
    model, found = scene
    editor = Memit(spec_of(model, mode="joint"))
    targets = editor.targets(model, awkward_requests())
    lacking = {name: prior for name, prior in found.items() if name != model.module_name(1)}
    with pytest.raises(StatisticsError, match=rf"no prior for {model.module_name(1)}"):
        pooled(editor, model, awkward_requests(), targets, lacking)
    with pytest.raises(StatisticsError, match="2 requests but 6 target vectors"):
        exchange_statistics(editor, model, awkward_requests()[:2], targets, 0)

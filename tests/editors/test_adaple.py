"""AdaPLE: every closed form against the objective it belongs to, and what the printed one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fleke_flwr.editors import Targets
from fleke_flwr.editors.adaple import AdaPLE
from fleke_flwr.editors.base import Readings
from fleke_flwr.editors.covariance import priors, second_moments
from fleke_flwr.editors.modes import pooled
from fleke_flwr.editors.pmet import Pmet
from fleke_flwr.errors import ConfigError
from fleke_flwr.linalg import Prior, compress, solve
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent
from tests.apps.test_exactness import run, worst_difference
from tests.conftest import corpus
from tests.editors.cases import awkward_requests
from tests.editors.clients import distance, merged
from tests.editors.reference import spec_of
from tests.test_linalg import make

Scene = tuple[EditableModel, Mapping[str, Prior], Targets]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"], scope="module")
def scene(
    request: pytest.FixtureRequest,
    load_tiny: Callable[..., EditableModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Scene:
    path: Path = request.getfixturevalue(request.param)
    model = load_tiny(path)
    cache = tmp_path_factory.mktemp("covariance")
    moments = second_moments(model, corpus(), [0, 1, 2], 2000, cache, Silent())
    return model, priors(moments, 10.0), adaple(model).targets(model, awkward_requests())


def adaple(model: EditableModel, mode: str = "joint", **options: Any) -> AdaPLE:
    return AdaPLE(spec_of(model, editor="adaple", mode=mode, steps=3, options=options))


class Linear:
    """One layer that is a matrix: weight ``W``, prior ``C``, keys ``K`` and targets ``Z``."""

    def __init__(self, scale: float = 1.0) -> None:
        self.C, self.K, self.Z = make(9, 4, 3, 5)
        self.C = self.C * scale
        generator = torch.Generator().manual_seed(7)
        self.W = torch.randn(4, 9, generator=generator, dtype=torch.float64)
        self.V = self.W @ self.K

    def update(self, model: EditableModel, **options: Any) -> Tensor:
        """Let the editor say what is asked for, and the kernel solve it."""
        editor, nothing = adaple(model, **options), torch.zeros(3)
        targets = Targets(self.Z.T, self.V.T, nothing, nothing)
        residuals = editor.residuals(targets, Readings({0: self.K}, self.V))
        statistics = compress(*editor.system(self.K, residuals), 3)
        return solve(statistics, Prior.from_matrix(self.C)).dense()

    def gradient(self, update: Tensor, objective: Callable[[Tensor], Tensor]) -> float:
        """Return the largest entry of an objective's gradient, ``tr(Delta C Delta^T)`` added."""
        update = update.clone().requires_grad_()
        loss = (update @ self.C * update).sum() + objective((self.W + update) @ self.K)
        (gradient,) = torch.autograd.grad(loss, update)
        return float(gradient.abs().max())


def test_the_closed_forms_are_where_their_objectives_are_flat(scene: Scene) -> None:
    layer, model = Linear(), scene[0]

    def forgetting(beta: float) -> Callable[[Tensor], Tensor]:
        return lambda out: (out - layer.Z).square().sum() - beta * (out - layer.V).square().sum()

    assert layer.gradient(layer.update(model), forgetting(0.0)) < 1e-9
    for beta in (0.3, 0.9):
        update = layer.update(model, objective="forget_beta", forget=beta)
        assert layer.gradient(update, forgetting(beta)) < 1e-9
    printed = layer.update(model, objective="adaple_paper")
    # What the paper solves belongs to an objective that wants minus the old value ...
    assert layer.gradient(
        printed, lambda out: (out - layer.Z).square().sum() + (out + layer.V).square().sum()
    ) < 1e-9  # fmt: skip
    # ... and not to the one it states, whose stationary point is Delta C = R K^T.
    assert layer.gradient(printed, forgetting(1.0)) > 1.0
    stated = torch.linalg.solve(layer.C, layer.K @ (layer.Z - layer.V).T).T
    assert layer.gradient(stated, forgetting(1.0)) < 1e-9


def test_what_the_layer_puts_out_where_nothing_holds_it(scene: Scene) -> None:
    layer, model = Linear(scale=1e-9), scene[0]
    difference = layer.Z - layer.V
    limits: list[tuple[Tensor, dict[str, Any]]] = [
        (layer.Z, {}),
        (difference / 2, {"objective": "adaple_paper"}),
        (layer.V + difference / 0.4, {"objective": "forget_beta", "forget": 0.6}),
    ]
    for expected, options in limits:
        found = (layer.W + layer.update(model, **options)) @ layer.K
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_paper_does_not_reach_its_target(scene: Scene) -> None:
    layer = Linear(scale=1e-9)
    missed = (layer.W + layer.update(scene[0], objective="adaple_paper")) @ layer.K - layer.Z
    torch.testing.assert_close(missed, -(layer.Z + layer.V) / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["joint", "layer_sync"])
def test_forgetting_nothing_is_pmet_to_the_bit(scene: Scene, mode: str) -> None:
    model, found, targets = scene
    plain = Pmet(spec_of(model, editor="pmet", mode=mode, steps=3))
    expected = pooled(plain, model, awkward_requests(), targets, found)
    chosen: list[dict[str, Any]] = [{}, {"objective": "forget_beta"}]
    for options in chosen:
        editor = adaple(model, mode, **options)
        updates = pooled(editor, model, awkward_requests(), targets, found)
        for name, update in expected.items():
            assert torch.equal(updates[name].dense(), update.dense())


@pytest.mark.parametrize(
    ("options", "weight", "old"),
    [
        ({"objective": "adaple_paper"}, 2.0, 3.0),
        ({"objective": "forget_beta", "forget": 0.6}, 0.4, 1.0),
    ],
)
def test_the_whole_edit_is_the_closed_form(
    scene: Scene, options: dict[str, Any], weight: float, old: float
) -> None:
    model, found, targets = scene
    editor = adaple(model, "frozen", **options)
    readings = editor.readings(model, awkward_requests(), [0, 1, 2])
    wanted = (targets.vectors.T - old * readings.hidden) * editor.total(3) / 3
    updates = pooled(editor, model, awkward_requests(), targets, found)
    for layer in (0, 1, 2):
        name, keys = model.module_name(layer), readings.keys[layer]
        system = found[name].matrix() + weight * keys @ keys.T
        expected = torch.linalg.solve(system, keys @ wanted.T).T
        assert float((updates[name].dense() - expected).norm() / expected.norm()) < 1e-8


@pytest.mark.parametrize(
    "options", [{"objective": "adaple_paper"}, {"objective": "forget_beta", "forget": 0.9}]
)
@pytest.mark.parametrize("mode", ["anticipated", "layer_sync"])
def test_sums_over_clients_are_the_pooled_edit(
    scene: Scene, mode: str, options: dict[str, Any]
) -> None:
    model, found, targets = scene
    editor = adaple(model, mode, **options)
    summed = merged(editor, model, awkward_requests(), targets, found)
    assert distance(summed, pooled(editor, model, awkward_requests(), targets, found)) < 1e-8


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"objective": "forget"}, "forget_beta"),
        ({"objective": "forget_beta", "forget": 1.0}, "from 0 to below 1"),
        ({"objective": "forget_beta", "forget": -0.1}, "from 0 to below 1"),
        ({"forget": 0.5}, "set objective=forget_beta"),
    ],
)
def test_wrong_parameters_are_refused(scene: Scene, options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        adaple(scene[0], **options).check(scene[0])
    adaple(scene[0]).check(scene[0])


def test_a_federation_is_the_global_edit(tiny_gpt2: Path, tmp_path: Path) -> None:
    final = run(
        tiny_gpt2,
        tmp_path,
        [3, 2],
        editor="adaple",
        edit__options="objective=forget_beta,forget=0.4",
        strategies="collabedit,global",
    )
    assert worst_difference(final["collabedit"], final["global"]) < 1e-8

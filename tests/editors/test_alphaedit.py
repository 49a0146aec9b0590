"""AlphaEdit: the released system, the subspace it stays in, and sums over clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fleke_flwr.editors import Targets
from fleke_flwr.editors.alphaedit import AlphaEdit
from fleke_flwr.editors.covariance import second_moments
from fleke_flwr.editors.modes import exchange_statistics, pooled, solve_groups
from fleke_flwr.errors import ConfigError
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent
from tests.apps.test_exactness import run, worst_difference
from tests.conftest import corpus
from tests.editors.cases import awkward_requests
from tests.editors.clients import distance, merged
from tests.editors.reference import spec_of

Scene = tuple[EditableModel, Mapping[str, Tensor], Targets]


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
    return model, moments, alphaedit(model).targets(model, awkward_requests())


def alphaedit(model: EditableModel, *, mode: str = "joint", **options: Any) -> AlphaEdit:
    """Take the quietest directions that hold a twentieth of the trace, unless told otherwise."""
    quiet = {"nullspace-threshold": 0.05, "nullspace-rule": "trace", "l2": 0.5}
    own = {name.replace("_", "-"): value for name, value in options.items()}
    return AlphaEdit(spec_of(model, mode=mode, steps=3, options={**quiet, **own}))


def projector(moment: Tensor, share: float = 0.05) -> Tensor:
    """Return ``P``, straight from the definition."""
    values, vectors = torch.linalg.eigh(moment)
    rank = 0
    while float(values[: rank + 1].sum()) < share * float(values.sum()):
        rank += 1
    assert 0 < rank < len(values)
    return vectors[:, :rank] @ vectors[:, :rank].T


def released(P: Tensor, keys: Tensor, wanted: Tensor, past: Tensor | None = None) -> Tensor:
    """Solve ``(P (K K^T + M) + a I) Delta^T = P K R^T``."""
    gram = keys @ keys.T if past is None else keys @ keys.T + past @ past.T
    system = P @ gram + 0.5 * torch.eye(len(P), dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(system, P @ keys @ wanted.T)
    return solved.T


@pytest.mark.parametrize("past", [False, True])
def test_every_layer_is_the_released_solution(scene: Scene, past: bool) -> None:
    model, moments, targets = scene
    editor = alphaedit(model, mode="frozen")
    requests = awkward_requests()
    known = editor.readings(model, requests[3:5], [0, 1, 2]).keys
    protected = {model.module_name(layer): keys for layer, keys in known.items()}
    readings = editor.readings(model, requests[:3], [0, 1, 2])
    chosen = targets.rows(range(3))
    priors = editor.priors(model, lambda: moments)
    found = pooled(editor, model, requests[:3], chosen, priors, protected if past else None)
    wanted = editor.residuals(chosen, readings) / 3
    for layer in (0, 1, 2):
        name = model.module_name(layer)
        P = projector(moments[name])
        memory = protected[name] if past else None
        expected = released(P, readings.keys[layer], wanted, memory)
        assert float((found[name].dense() - expected).norm() / expected.norm()) < 1e-8
        outside = found[name].dense() @ (torch.eye(len(P), dtype=torch.float64) - P)
        assert float(outside.norm()) < 1e-12 * float(expected.norm())


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("mode", ["joint", "anticipated", "frozen", "layer_sync"])
def test_sums_over_clients_are_the_pooled_edit(scene: Scene, mode: str, dense: bool) -> None:
    model, moments, targets = scene
    editor = alphaedit(model, mode=mode)
    priors = editor.priors(model, lambda: moments)
    found = merged(editor, model, awkward_requests(), targets, priors, dense)
    assert distance(found, pooled(editor, model, awkward_requests(), targets, priors)) < 1e-8


def test_a_withdrawn_client_was_never_there(scene: Scene) -> None:
    model, moments, targets = scene
    editor = alphaedit(model, mode="anticipated")
    requests, priors = awkward_requests(), editor.priors(model, lambda: moments)
    stays, goes = (
        exchange_statistics(editor, model, [requests[i] for i in part], targets.rows(part), 0)
        for part in ([0, 1, 3], [2, 4])
    )
    left = {name: stays[name] + goes[name] - goes[name] for name in stays}
    expected = solve_groups(stays, priors, "anticipated")
    assert distance(solve_groups(left, priors, "anticipated"), expected) < 1e-8


def test_the_published_rule_counts_eigenvalues(scene: Scene) -> None:
    model, moments, _ = scene
    spectra = {name: torch.linalg.eigvalsh(moment) for name, moment in moments.items()}
    threshold = float(sum(values[len(values) // 3] for values in spectra.values())) / 3 * 1.001
    editor = alphaedit(model, nullspace_rule="eigenvalue", nullspace_threshold=threshold)
    for name, prior in editor.priors(model, lambda: moments).items():
        assert prior.rank == int((spectra[name] < threshold).sum())
        assert not prior.finite
    assert AlphaEdit.options == {
        "nullspace-threshold": 0.02, "nullspace-rule": "eigenvalue", "l2": 10.0
    }  # fmt: skip
    assert not AlphaEdit.measured
    assert editor.memory_weight == 1.0


@pytest.mark.parametrize(
    ("rule", "threshold", "what"),
    [
        ("eigenvalue", 1e-30, "no direction"),
        ("eigenvalue", 1e30, "every direction"),
        ("trace", 1e-30, "no direction"),
        ("trace", 2.0, "every direction"),
    ],
)
def test_a_threshold_that_divides_nothing_shows_the_range(
    scene: Scene, rule: str, threshold: float, what: str
) -> None:
    model, moments, _ = scene
    editor = alphaedit(model, nullspace_rule=rule, nullspace_threshold=threshold)
    with pytest.raises(
        ConfigError, match=rf"{what} of \S+ free.* run from .* for example"
    ) as error:
        editor.priors(model, lambda: moments)
    suggested = float(str(error.value).rpartition("=")[2])
    named = {name: moment for name, moment in moments.items() if name in str(error.value)}
    better = alphaedit(model, nullspace_rule=rule, nullspace_threshold=suggested)
    (prior,) = better.priors(model, lambda: named).values()
    assert 0.3 < prior.rank / prior.d_in < 0.7


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"l2": 0.0}, "l2 = 0: need a number above 0"),
        ({"nullspace_threshold": -1.0}, "nullspace-threshold = -1"),
        ({"nullspace_rule": "trase"}, "trace"),
    ],
)
def test_parameters_without_meaning_are_refused(
    scene: Scene, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        alphaedit(scene[0], **options).check(scene[0])
    alphaedit(scene[0]).check(scene[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "layer_sync", "encoding": "dense"},
        {"mode": "anticipated", "memory": "dynamic", "rounds": 2},
        {"mode": "joint", "memory": "statistics", "rounds": 2},
    ],
)
def test_a_federation_is_the_global_edit(
    tiny_gpt2: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    final = run(
        tiny_gpt2,
        tmp_path,
        [3, 2],
        editor="alphaedit",
        edit__options="nullspace-rule=trace,nullspace-threshold=0.05,l2=0.5",
        strategies="collabedit,global",
        **settings,
    )
    assert worst_difference(final["collabedit"], final["global"]) < 1e-8

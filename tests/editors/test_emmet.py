"""EMMET: the constrained closed form, its limit, and sums over clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fleke_flwr.editors import Targets
from fleke_flwr.editors.covariance import second_moments
from fleke_flwr.editors.emmet import Emmet
from fleke_flwr.editors.modes import pooled
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
    return model, moments, emmet(model).targets(model, awkward_requests())


def emmet(model: EditableModel, equality: float = 0.1, **changes: Any) -> Emmet:
    return Emmet(spec_of(model, steps=3, options={"equality": equality}, **changes))


@pytest.mark.parametrize("equality", [0.1, 1e-4])
def test_one_layer_is_the_constrained_closed_form(scene: Scene, equality: float) -> None:
    model, moments, targets = scene
    editor = emmet(model, equality, mode="joint", layers=(2,))
    requests = awkward_requests()
    readings = editor.readings(model, requests, [2])
    keys, wanted, name = readings.keys[2], editor.residuals(targets, readings), model.module_name(2)
    right = torch.linalg.solve(10.0 * moments[name], keys).T
    constraint = right @ keys + equality * torch.eye(len(requests), dtype=torch.float64)
    expected = wanted @ torch.linalg.solve(constraint, right)
    found = pooled(editor, model, requests, targets, editor.priors(model, lambda: moments))
    assert float((found[name].dense() - expected).norm() / expected.norm()) < 1e-8


def test_targets_are_met_exactly_in_the_limit(scene: Scene) -> None:
    model, moments, targets = scene
    requests = awkward_requests()[:5]  # the last one repeats the first: no two values for one key
    missed = []
    for equality in (1e-2, 1e-5, 1e-8):
        editor = emmet(model, equality, mode="joint", layers=(2,))
        updates = pooled(
            editor, model, requests, targets.rows(range(5)), editor.priors(model, lambda: moments)
        )
        readings = editor.readings(model, requests, [2])
        wanted = editor.residuals(targets.rows(range(5)), readings)
        written = updates[model.module_name(2)].dense() @ readings.keys[2]
        missed.append(float((written - wanted).norm() / wanted.norm()))
    assert missed[0] > missed[1] > missed[2]
    assert missed[2] < 1e-5


@pytest.mark.parametrize("mode", ["joint", "layer_sync"])
def test_sums_over_clients_are_the_pooled_edit(scene: Scene, mode: str) -> None:
    model, moments, targets = scene
    editor = emmet(model, mode=mode)
    priors = editor.priors(model, lambda: moments)
    found = merged(editor, model, awkward_requests(), targets, priors)
    assert distance(found, pooled(editor, model, awkward_requests(), targets, priors)) < 1e-8


def test_one_request_is_weighed_as_many_are(scene: Scene) -> None:
    """The released code leaves ``eps`` out for a single request."""
    model, moments, targets = scene
    editor = emmet(model, mode="joint", layers=(2,))
    priors = editor.priors(model, lambda: moments)
    name, requests = model.module_name(2), awkward_requests()
    key = editor.readings(model, requests[:1], [2]).keys[2]
    leverage = float(key.T @ torch.linalg.solve(10.0 * moments[name], key))
    update = pooled(editor, model, requests[:1], targets.rows([0]), priors)[name]
    wanted = editor.residuals(targets.rows([0]), editor.readings(model, requests[:1], [2]))
    torch.testing.assert_close(update.dense() @ key, wanted * leverage / (leverage + 0.1))


def test_past_keys_count_as_the_covariance_does(scene: Scene) -> None:
    assert emmet(scene[0], 0.2).memory_weight == pytest.approx(2.0)


@pytest.mark.parametrize("equality", [0.0, -1.0])
def test_what_is_no_constraint_is_refused(scene: Scene, equality: float) -> None:
    with pytest.raises(ConfigError, match="need a number above 0"):
        emmet(scene[0], equality).check(scene[0])
    emmet(scene[0]).check(scene[0])


def test_a_federation_is_the_global_edit(tiny_gpt2: Path, tmp_path: Path) -> None:
    final = run(
        tiny_gpt2,
        tmp_path,
        [3, 2],
        editor="emmet",
        edit__options="equality=0.05",
        strategies="collabedit,global",
    )
    assert worst_difference(final["collabedit"], final["global"]) < 1e-8

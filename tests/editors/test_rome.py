"""ROME equals its equations, request after request, and refuses what would ruin the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fleke_flwr.editors.covariance import second_moments
from fleke_flwr.editors.rome import Rome
from fleke_flwr.errors import ConfigError, ModelError, StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.tokens import subject_position
from fleke_flwr.progress import Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest, LayerUpdate
from tests.conftest import corpus
from tests.editors.cases import awkward_requests
from tests.editors.reference import clamp, lay_out, spec_of

LoadTiny = Callable[..., EditableModel]
LAYER = 1


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"], scope="module")
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


@pytest.fixture(scope="module")
def moments(model: EditableModel, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tensor]:
    cache = tmp_path_factory.mktemp("covariance")
    return second_moments(model, corpus(), [LAYER], 2000, cache, Silent())


def recipe(model: EditableModel, key: str = "mean", **changes: Any) -> EditSpec:
    options = {"key": key, "least-overlap": changes.pop("least", 0.05)}
    return spec_of(model, **{"editor": "rome", "layers": (LAYER,), "options": options, **changes})


def edited(
    model: EditableModel,
    moments: Mapping[str, Tensor],
    requests: list[EditRequest],
    key: str = "mean",
    **changes: Any,
) -> LayerUpdate:
    editor = Rome(recipe(model, key, **changes))
    updates = editor.updates(model, requests, editor.priors(model, lambda: moments))
    assert list(updates) == [model.module_name(LAYER)]
    return updates[model.module_name(LAYER)]


def one_change(model: EditableModel, spec: EditSpec, request: EditRequest) -> Tensor:
    """Return ``v - m``: a hook adds a vector to the projection's output in the whole network."""
    laid = lay_out(model, spec, request)
    delta = torch.zeros(model.d_model, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=spec.learning_rate)
    seen: dict[str, Tensor] = {}

    def add(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        seen.setdefault("initial", output[0, laid.positions[0]].detach().clone())
        return laid.add(output, delta)

    handle = model.projection(LAYER).register_forward_hook(add)
    for step in range(spec.steps):
        optimizer.zero_grad()
        logs = laid.logs(model)
        edited = logs[-1, laid.positions[-1]]
        before = seen.setdefault("before", edited.detach().clone())
        norm = seen["initial"].norm()
        loss = (
            -laid.likelihoods(logs).mean()
            + spec.kl_weight * (edited.exp() * (edited - before)).sum()
            + spec.weight_decay * delta.norm() / norm**2
        )
        if loss < spec.stop_loss or step == spec.steps - 1:
            break
        loss.backward()
        optimizer.step()
        clamp(delta, spec.clamp * norm)
    handle.remove()
    return delta.detach()


def passages(
    model: EditableModel, spec: EditSpec, request: EditRequest
) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs and outputs of the projection in every context, the bare prompt first."""
    inputs, outputs = [], []
    for context in spec.contexts:
        ids, at = subject_position(model, context.replace("{}", request.prompt), request.subject)

        def see(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, at: int = at) -> None:
            inputs.append(args[0][0, at])
            outputs.append(output[0, at])

        handle = model.projection(LAYER).register_forward_hook(see)
        model.model(torch.tensor([ids]))
        handle.remove()
    return inputs, outputs


def literally(
    model: EditableModel, moment: Tensor, requests: list[EditRequest], spec: EditSpec
) -> Tensor:
    """Edit a copy of the model, one rank-one update after the other, and return the difference."""
    twin = replace(model, model=copy.deepcopy(model.model))
    stored = twin.projection(LAYER).weight
    assert isinstance(stored, Tensor)
    weight = stored.T if type(twin.projection(LAYER)).__name__ == "Conv1D" else stored
    start = weight.clone()
    for request in requests:
        inputs, outputs = passages(twin, spec, request)
        v = outputs[0] + one_change(twin, spec, request)
        mean = torch.stack(inputs).mean(0)
        k_u = inputs[0] if spec.options["key"] == "bare" else mean
        u = torch.linalg.solve(37.0 * moment, k_u)
        u = u / u.norm()
        if spec.options["key"] == "mean":
            k, m = mean, torch.stack(outputs).mean(0)
        else:
            k, m = inputs[0], outputs[0]
        weight += torch.outer((v - m) / (k @ u), u)
    return weight - start


@pytest.mark.parametrize("key", ["mean", "bare", "released"])
@pytest.mark.parametrize("chosen", [(0, 3, 4), (2, 1, 2)])
def test_equal_to_the_equations(
    model: EditableModel, moments: Mapping[str, Tensor], key: str, chosen: tuple[int, ...]
) -> None:
    requests = [awkward_requests()[index] for index in chosen]
    spec = recipe(model, key, least=0.0)
    expected = literally(model, moments[model.module_name(LAYER)], requests, spec)
    found = edited(model, moments, requests, key, least=0.0).dense()
    assert found.dtype == torch.float64
    assert float((found - expected).norm() / expected.norm()) < 1e-8


def test_equal_to_the_equations_with_the_bare_prompt_alone(
    model: EditableModel, moments: Mapping[str, Tensor]
) -> None:
    requests = awkward_requests()[:2]
    spec = recipe(model, contexts=("{}",))
    expected = literally(model, moments[model.module_name(LAYER)], requests, spec)
    found = edited(model, moments, requests, contexts=("{}",)).dense()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_all_at_once_is_one_after_the_other(
    model: EditableModel, moments: Mapping[str, Tensor]
) -> None:
    together = edited(model, moments, awkward_requests()[:3]).dense()
    total = torch.zeros_like(together)
    for request in awkward_requests()[:3]:
        with applied(model.model, {model.module_name(LAYER): LayerUpdate(total)}):
            step = edited(model, moments, [request]).dense()
        total = total + step
    torch.testing.assert_close(total, together, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("key", ["bare", "released"])
def test_the_bare_prompt_reaches_its_target(
    model: EditableModel, moments: Mapping[str, Tensor], key: str
) -> None:
    request = awkward_requests()[1]
    spec = recipe(model, key)
    _, before = passages(model, spec, request)
    update = edited(model, moments, [request], key)
    with applied(model.model, {model.module_name(LAYER): update}):
        _, after = passages(model, spec, request)
    wanted = before[0] + one_change(model, spec, request)
    torch.testing.assert_close(after[0], wanted, rtol=1e-8, atol=1e-8)


def test_the_covariance_counts_up_to_a_factor(
    model: EditableModel, moments: Mapping[str, Tensor]
) -> None:
    plain = edited(model, moments, awkward_requests()[:2]).dense()
    scaled = {name: 1e4 * matrix for name, matrix in moments.items()}
    torch.testing.assert_close(
        edited(model, scaled, awkward_requests()[:2]).dense(), plain, rtol=1e-8, atol=1e-10
    )
    other = {name: torch.eye(len(matrix)) for name, matrix in moments.items()}
    assert not torch.allclose(edited(model, other, awkward_requests()[:2]).dense(), plain)


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[tuple[str, int]] = []

    def start(self, phase: str, total: int) -> None:
        self.events.append((phase, total))

    def advance(self, phase: str, amount: int = 1) -> None:
        self.events.append((phase, amount))

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_hardly_overlapping_keys_are_left_out_and_named(
    model: EditableModel, moments: Mapping[str, Tensor]
) -> None:
    requests = awkward_requests()[:3]
    priors = Rome(recipe(model)).priors(model, lambda: moments)
    everything = edited(model, moments, requests, "released", least=0.0)
    told = Told()
    editor = Rome(recipe(model, "released", least=0.999999))
    update = editor.updates(model, requests, priors, told)[model.module_name(LAYER)]
    assert everything.left.shape[1] == 3
    assert update.left.shape == (model.d_model, 0)
    assert not update.dense().any()
    assert len(told.lines) == 1
    assert told.lines[0].startswith("rome: 3 of 3 edits were left out")
    assert "0 (0." in told.lines[0]
    assert told.events == [("targets", 3), *[("targets", 1)] * 3]
    # The same key in both places overlaps with itself completely.
    consistent = Rome(recipe(model, "mean", least=0.999999))
    assert consistent.updates(model, requests, priors)[model.module_name(LAYER)].left.shape[1] == 3


def test_one_over_the_overlap_is_what_the_update_costs(
    model: EditableModel, moments: Mapping[str, Tensor]
) -> None:
    requests = [awkward_requests()[2]]
    factor = torch.linalg.cholesky(moments[model.module_name(LAYER)])
    sizes = {
        key: (edited(model, moments, requests, key, least=0.0).dense() @ factor).norm()
        for key in ("bare", "released")
    }
    told = Told()
    editor = Rome(recipe(model, "released", least=0.999999))
    editor.updates(model, requests, editor.priors(model, lambda: moments), told)
    overlap = float(told.lines[0].partition("2 (")[2].partition(")")[0])
    assert float(sizes["bare"] / sizes["released"]) == pytest.approx(overlap, rel=0.05)


def test_no_requests(model: EditableModel, moments: Mapping[str, Tensor]) -> None:
    update = edited(model, moments, [])
    assert update.shape == model.shape_of(model.module_name(LAYER))
    assert not update.dense().any()


class Interrupted(Silent):
    """Breaks the run off after the first request."""

    def advance(self, phase: str, amount: int = 1) -> None:
        raise KeyboardInterrupt


def test_the_model_comes_back_bit_for_bit(
    model: EditableModel, moments: Mapping[str, Tensor]
) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    hooks = hooks_of(model)
    editor = Rome(recipe(model))
    priors = editor.priors(model, lambda: moments)
    editor.updates(model, awkward_requests()[:2], priors)
    with pytest.raises(KeyboardInterrupt):
        editor.updates(model, awkward_requests()[:2], priors, Interrupted())
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert hooks_of(model) == hooks


def hooks_of(model: EditableModel) -> list[int]:
    """Count the hooks of every module; transformers leaves some of its own."""
    return [len(module._forward_hooks) for module in model.model.modules()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_narrow_models(tiny_gpt2: Path, load_tiny: LoadTiny, tmp_path: Path, dtype: str) -> None:
    narrow = load_tiny(tiny_gpt2, dtype=dtype)
    found = second_moments(narrow, corpus(), [LAYER], 2000, tmp_path, Silent())
    update = edited(narrow, found, awkward_requests())
    assert update.left.dtype == torch.float64
    assert bool(update.dense().isfinite().all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (0, 1)}, "edits a single layer"),
        ({"key": "prompt"}, "edit.options: key"),
        ({"least": 1.0}, "least-overlap = 1"),
    ],
)
def test_what_it_cannot_do_is_refused(
    model: EditableModel, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Rome(recipe(model, **changes)).check(model)


def test_a_layer_outside_the_model_and_a_missing_covariance(model: EditableModel) -> None:
    with pytest.raises(ModelError, match="has no layer 4"):
        Rome(recipe(model, layers=(4,))).check(model)
    with pytest.raises(StatisticsError, match="no prior"):
        Rome(recipe(model)).updates(model, awkward_requests(), {})

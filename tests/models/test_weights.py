"""Substituted weights: what is computed, where gradients go, and that nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fleke_flwr.errors import ModelError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import run_blocks, segment
from fleke_flwr.models.weights import substituted
from fleke_flwr.state import applied
from fleke_flwr.types import LayerUpdate

LoadTiny = Callable[..., EditableModel]
IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def model(path: Path, load_tiny: LoadTiny) -> EditableModel:
    return load_tiny(path)


def random_changes(model: EditableModel, layers: tuple[int, ...] = (1, 2)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = [model.module_name(layer) for layer in layers]
    return {
        name: torch.randn(model.shape_of(name), generator=generator, dtype=torch.float64) / 10
        for name in names
    }


@torch.no_grad()
def logits(model: EditableModel) -> Tensor:
    found: Tensor = model.model(IDS).logits
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_computes_what_the_edited_model_computes(
    path: Path, load_tiny: LoadTiny, dtype: str
) -> None:
    model = load_tiny(path, dtype=dtype)
    changes = random_changes(model)
    before = logits(model)
    with applied(model.model, {name: LayerUpdate(change) for name, change in changes.items()}):
        expected = logits(model)
    with substituted(model.model, changes):
        found = logits(model)
    assert torch.equal(found, expected)
    assert not torch.equal(found, before)
    assert torch.equal(logits(model), before)


def test_partial_passes_see_it(model: EditableModel) -> None:
    hidden, part = segment(model, IDS, torch.arange(6).expand(2, 6), None)
    plain, _ = run_blocks(model, hidden, part, 0, 2)
    with substituted(model.model, random_changes(model)):
        changed, _ = run_blocks(model, hidden, part, 0, 2)
    assert not torch.allclose(plain, changed)
    assert torch.equal(run_blocks(model, hidden, part, 0, 2)[0], plain)


def test_gradients_flow_into_the_change(model: EditableModel) -> None:
    name = model.module_name(1)
    direction = random_changes(model)[name]
    change = torch.zeros_like(direction, requires_grad=True)

    def loss(at: Tensor) -> Tensor:
        with substituted(model.model, {name: at}):
            found: Tensor = model.model(IDS).logits.square().mean()
        return found

    (gradient,) = torch.autograd.grad(loss(change), change)
    step = 1e-5
    slope = (loss(step * direction) - loss(-step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=0)
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_a_wide_change_of_narrow_weights_has_a_wide_gradient(
    path: Path, load_tiny: LoadTiny
) -> None:
    model = load_tiny(path, dtype="bfloat16")
    name = model.module_name(1)
    change = torch.zeros(model.shape_of(name), requires_grad=True)
    with substituted(model.model, {name: change}):
        model.model(IDS).logits.float().square().mean().backward()
    assert change.grad is not None
    assert change.grad.dtype == torch.float32
    assert bool(change.grad.any())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_same_parameters_are_back(model: EditableModel, error: type[BaseException]) -> None:
    before = {name: (value, value.clone()) for name, value in model.model.named_parameters()}
    with pytest.raises(error), substituted(model.model, random_changes(model)):
        raise error
    after = dict(model.model.named_parameters())
    assert list(after) == list(before)
    for name, (value, copy) in before.items():
        assert after[name] is value
        assert torch.equal(value, copy)


def test_nested_changes_add_up(model: EditableModel) -> None:
    changes = random_changes(model)
    with substituted(model.model, {name: 3 * change for name, change in changes.items()}):
        expected = logits(model)
    with (
        substituted(model.model, changes),
        substituted(model.model, {name: 2 * change for name, change in changes.items()}),
    ):
        torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("no.such.module", (2, 2), "no weight no.such.module.weight"),
        ("", (2, 2), "no weight"),
        (None, (3, 5), r"its change \(3, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    model: EditableModel, name: str | None, shape: tuple[int, int], message: str
) -> None:
    bad = model.module_name(2) if name is None else name
    before = logits(model)
    fitting = random_changes(model, (0,))
    with (
        pytest.raises(ModelError, match=message),
        substituted(model.model, {**fitting, bad: torch.zeros(shape)}),
    ):
        pass
    assert torch.equal(logits(model), before)

"""Target vectors of all requests at once are those of one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.editors.memit import Memit
from fleke_flwr.errors import StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent
from tests.editors.cases import awkward_requests
from tests.editors.reference import one_target, spec_of

LoadTiny = Callable[..., EditableModel]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


def compare(
    model: EditableModel, spec_changes: dict[str, object], chosen: Sequence[int]
) -> list[int]:
    spec = spec_of(model, **spec_changes)
    wanted = [awkward_requests()[index] for index in chosen]
    found = Memit(spec).targets(model, wanted)
    for row, request in enumerate(wanted):
        vector, initial, steps = one_target(model, spec, request)
        torch.testing.assert_close(found.initial[row], initial, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.vectors[row], vector, rtol=1e-8, atol=1e-8)
        assert int(found.steps[row]) == steps
    return [int(step) for step in found.steps]


def early(model: EditableModel) -> dict[str, object]:
    """Return settings with which the requests stop at different steps."""
    spec = spec_of(model, steps=8, stop_loss=0.0, clamp=99.0)
    losses = Memit(spec).targets(model, awkward_requests()).losses
    return {"steps": 20, "stop_loss": float(losses.quantile(0.7)), "clamp": 99.0}


def test_equal_one_by_one(model: EditableModel) -> None:
    assert compare(model, {}, range(6)) == [7] * 6


def test_equal_one_by_one_when_some_stop_early(model: EditableModel) -> None:
    steps = compare(model, early(model), range(6))
    assert len(set(steps)) > 2
    assert min(steps) < 19


def test_equal_one_by_one_in_small_batches(model: EditableModel) -> None:
    compare(model, {"batch_tokens": 80}, range(6))


@pytest.mark.parametrize("layers", [(1,), (3,), (0,)])
def test_equal_one_by_one_at_any_layer(model: EditableModel, layers: tuple[int, ...]) -> None:
    compare(model, {"layers": layers}, [2, 3])


def test_equal_one_by_one_with_the_bare_prompt_alone(model: EditableModel) -> None:
    compare(model, {"contexts": ("{}",)}, [1, 3])


def test_clamp_is_reached_and_kept(model: EditableModel) -> None:
    spec = spec_of(model, clamp=0.1)
    found = Memit(spec).targets(model, awkward_requests())
    ratio = (found.vectors - found.initial).norm(dim=1) / found.initial.norm(dim=1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1))


def test_a_neighbour_that_stops_early_changes_nothing(model: EditableModel) -> None:
    spec = spec_of(model, **early(model))
    together = Memit(spec).targets(model, awkward_requests())
    first = int(together.steps.argmin())
    others = [index for index in range(6) if index != first]
    alone = Memit(spec).targets(model, [awkward_requests()[index] for index in others])
    torch.testing.assert_close(alone.vectors, together.vectors[others], rtol=1e-10, atol=1e-10)
    assert alone.steps.tolist() == together.steps[others].tolist()


def test_a_loss_below_the_stop_at_once_leaves_the_state(model: EditableModel) -> None:
    found = Memit(spec_of(model, stop_loss=1e6)).targets(model, awkward_requests())
    assert torch.equal(found.vectors, found.initial)
    assert found.steps.tolist() == [0] * 6


def test_is_deterministic_and_leaves_the_model(model: EditableModel) -> None:
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    editor = Memit(spec_of(model))
    first, second = (
        editor.targets(model, awkward_requests()),
        editor.targets(model, awkward_requests()),
    )
    assert torch.equal(first.vectors, second.vectors)
    assert all(
        torch.equal(value, weights[name]) for name, value in model.model.state_dict().items()
    )


def test_no_requests(model: EditableModel) -> None:
    found = Memit(spec_of(model)).targets(model, [])
    assert found.vectors.shape == found.initial.shape == (0, model.d_model)
    assert found.losses.shape == found.steps.shape == (0,)


def test_losses_fall_below_the_start(model: EditableModel) -> None:
    spec = spec_of(model, clamp=30.0)
    start = Memit(replace(spec, steps=1)).targets(model, awkward_requests())
    end = Memit(spec).targets(model, awkward_requests())
    assert (end.losses < start.losses).all()


def test_progress_counts_the_requests(model: EditableModel) -> None:
    seen: list[tuple[str, int]] = []

    class Counting(Silent):
        def start(self, phase: str, total: int) -> None:
            seen.append((phase, total))

        def advance(self, phase: str, amount: int = 1) -> None:
            seen.append((phase, amount))

    Memit(spec_of(model, batch_tokens=150)).targets(model, awkward_requests(), Counting())
    assert seen[0] == ("targets", 6)
    assert len(seen) > 2
    assert sum(amount for _, amount in seen[1:]) == 6


def test_not_a_number_is_an_error(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    model = load_tiny(tiny_gpt2, dtype="float32")
    spec = spec_of(model, learning_rate=1e38, clamp=1e38)
    with pytest.raises(StatisticsError, match="learning-rate"):
        Memit(spec).targets(model, awkward_requests())


def test_float32_is_close_to_float64(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    wide, narrow = load_tiny(tiny_gpt2), load_tiny(tiny_gpt2, dtype="float32")
    exact = Memit(spec_of(wide)).targets(wide, awkward_requests())
    close = Memit(spec_of(narrow)).targets(narrow, awkward_requests())
    cosine = torch.cosine_similarity(exact.vectors.float(), close.vectors, dim=1)
    assert float(cosine.min()) > 0.999


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_models_keep_float32_vectors(
    tiny_gpt2: Path, load_tiny: LoadTiny, dtype: str
) -> None:
    model = load_tiny(tiny_gpt2, dtype=dtype)
    found = Memit(spec_of(model)).targets(model, awkward_requests())
    assert found.vectors.dtype == torch.float32
    assert torch.isfinite(found.vectors).all()


def test_families_whose_blocks_are_called_whole(model: EditableModel) -> None:
    whole = replace(model, family=replace(model.family, norm_2=""))
    spec = spec_of(model)
    expected, found = (Memit(spec).targets(one, awkward_requests()) for one in (model, whole))
    torch.testing.assert_close(found.vectors, expected.vectors, rtol=1e-8, atol=1e-8)
    expected_keys, found_keys = (
        Memit(spec).readings(one, awkward_requests(), [0, 2]) for one in (model, whole)
    )
    for layer in (0, 2):
        torch.testing.assert_close(found_keys.keys[layer], expected_keys.keys[layer])
    torch.testing.assert_close(found_keys.hidden, expected_keys.hidden)

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.editors.hyper.normalizer import RunningMoments
from fleke_flwr.errors import StatisticsError


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 1000))
def test_batches_of_any_size_pool_to_the_whole(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(sizes) + 2, 5, generator=generator, dtype=torch.float64) * 3 + 100
    moments = RunningMoments(5)
    for batch in rows.split([2, *sizes]):
        moments.update(batch)
    found = moments.frozen()
    torch.testing.assert_close(found.mean, rows.mean(dim=0))
    wanted = rows.var(dim=0, correction=0).sqrt()
    floor = 0.01 * rows.var(dim=0, correction=0).mean().sqrt()
    torch.testing.assert_close(found.deviation, wanted.clamp(min=float(floor)))


def test_a_column_that_hardly_varies_is_not_blown_up() -> None:
    rows = torch.stack([torch.arange(10.0), torch.full((10,), 4.0)], dim=1)
    moments = RunningMoments(2)
    moments.update(rows)
    normalized = moments.frozen()(torch.tensor([[4.5, 4.1]], dtype=torch.float64))
    assert abs(float(normalized[0, 1])) < 6


def test_what_is_frozen_cannot_change() -> None:
    moments = RunningMoments(2)
    moments.update(torch.eye(2))
    found = moments.frozen()
    before = found.mean.clone()
    moments.update(torch.ones(5, 2))
    assert torch.equal(found.mean, before)
    with pytest.raises(FrozenInstanceError):
        found.mean = before  # type: ignore[misc]


@pytest.mark.parametrize("rows", [torch.empty(0, 3), torch.ones(4, 3)])
def test_nothing_to_normalise_with_is_refused(rows: torch.Tensor) -> None:
    moments = RunningMoments(3)
    moments.update(rows)
    with pytest.raises(StatisticsError, match=r"(more|give) records"):
        moments.frozen()

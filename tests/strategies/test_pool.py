"""Contributions are added up exactly, and take no more room than their sum."""

from __future__ import annotations

import pytest
import torch

from fleke_flwr.strategies.pool import Pool
from fleke_flwr.types import EditPayload, LayerStatistics

D_IN, D_OUT = 6, 3


def payload(seed: int, columns: int, dense: bool = False) -> EditPayload:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(D_IN, columns, generator=generator, dtype=torch.float64)
    residuals = torch.randn(D_OUT, columns, generator=generator, dtype=torch.float64)
    statistics = LayerStatistics(columns, keys=keys, residuals=residuals)
    if dense:
        gram, cross = statistics.sums()
        statistics = LayerStatistics(columns, gram=gram, cross=cross)
    return EditPayload("base", "state", "memit", "joint", columns, {"a": statistics})


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("columns", [[2, 0, 1], [2, 2, 2], [4, 1, 5, 3], [3]])
def test_the_pool_is_the_sum(columns: list[int], dense: bool) -> None:
    pool = Pool()
    expected_gram, expected_cross = torch.zeros(D_IN, D_IN), torch.zeros(D_OUT, D_IN)
    for seed, count in enumerate(columns):
        gram, cross = payload(seed, count).statistics["a"].sums()
        expected_gram, expected_cross = expected_gram + gram, expected_cross + cross
        pool.add(payload(seed, count, dense))
    (found,) = pool.contents()
    assert found.num_edits == found.statistics["a"].count == sum(columns)
    gram, cross = found.statistics["a"].sums()
    torch.testing.assert_close(gram, expected_gram.double())
    torch.testing.assert_close(cross, expected_cross.double())


def test_factors_stay_factors_until_they_are_larger_than_the_sum() -> None:
    pool = Pool()
    for seed in range(3):
        pool.add(payload(seed, 2))
    assert pool.contents()[0].statistics["a"].is_factored
    pool.add(payload(3, 1))
    assert not pool.contents()[0].statistics["a"].is_factored


def test_nothing_added_is_nothing() -> None:
    assert Pool().contents() == []


def test_sums_of_float32_parts_are_formed_in_float64() -> None:
    pool = Pool()
    for seed in range(3):
        single = payload(seed, 2, dense=True)
        gram, cross = single.statistics["a"].sums()
        rounded = LayerStatistics(2, gram=gram.float(), cross=cross.float())
        pool.add(EditPayload("base", "state", "memit", "joint", 2, {"a": rounded}))
    gram, _ = pool.contents()[0].statistics["a"].sums()
    assert gram.dtype == torch.float64

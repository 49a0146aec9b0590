"""The re-edit condition on hand-made vectors (FedLEKE eq. 8)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fleke_flwr.editors.condition import own_quantile, passing, similarities
from fleke_flwr.types import MemoryVectors


def vectors(targets: list[list[float]], keys: list[list[float]] | None = None) -> MemoryVectors:
    rows = torch.tensor(targets, dtype=torch.float64)
    one = torch.tensor(keys, dtype=torch.float64) if keys else rows
    return MemoryVectors(rows, torch.zeros_like(rows), {"a": one, "b": -one})


def passed(rows: list[list[float]], alpha: float) -> list[bool]:
    found: list[bool] = passing(torch.tensor(rows, dtype=torch.float64), alpha).tolist()
    return found


def test_more_than_alpha_is_strict() -> None:
    assert passed([[0.4], [0.4 + 1e-12], [0.4 - 1e-12]], 0.4) == [False, True, False]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.5, 0.5, 0.3, 0.3], True),
        ([0.5, 0.3, 0.3, 0.3], False),
        ([0.5, 0.5, 0.3], True),
        ([0.5, 0.3, 0.3], False),
        ([0.5, 0.4], True),
    ],
)
def test_half_of_the_own_vectors_is_enough(row: list[float], expected: bool) -> None:
    assert passed([row], 0.4) == [expected]


def test_an_exact_cosine_of_alpha_does_not_count() -> None:
    mine = vectors([[1.0, 0.0], [1.0, 0.0]])
    theirs = vectors([[0.6, 0.8], [0.8, 0.6]])
    found = similarities(theirs, mine, "targets")
    torch.testing.assert_close(found[:, 0], torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert passing(found, float(found[0, 0])).tolist() == [False, True]


def test_minus_infinity_takes_everything_and_a_client_without_edits_does_too() -> None:
    assert passed([[-1.0, -1.0], [0.9, 0.9]], -math.inf) == [True, True]
    nobody = similarities(
        vectors([[1.0, 0.0]]), vectors([[1.0, 0.0]]).rows(torch.arange(0)), "keys"
    )
    assert nobody.shape == (1, 0)
    assert passing(nobody, 0.4).tolist() == [True]


def test_nothing_offered_is_nothing_taken() -> None:
    mine = vectors([[1.0, 0.0]])
    assert passing(similarities(mine.rows(torch.arange(0)), mine, "targets"), 0.4).shape == (0,)


def test_a_zero_vector_is_like_nothing() -> None:
    found = similarities(vectors([[0.0, 0.0]]), vectors([[1.0, 0.0]]), "targets")
    assert found.tolist() == [[0.0]]


def test_measures_compare_what_they_say() -> None:
    common = torch.tensor([10.0, 10.0], dtype=torch.float64)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def with_base(index: int, key: Tensor) -> MemoryVectors:
        base = common[None]
        return MemoryVectors(base + rows[index : index + 1], base, {"a": key[None]})

    first, second = with_base(0, rows[0]), with_base(1, rows[0])
    assert float(similarities(first, second, "targets")) > 0.99
    assert float(similarities(first, second, "changes")) == pytest.approx(0.0, abs=1e-12)
    assert float(similarities(first, second, "centred")) == pytest.approx(-1.0)
    assert float(similarities(first, second, "keys")) == pytest.approx(1.0)


def test_keys_are_compared_layer_by_layer() -> None:
    mine, theirs = vectors([[1.0, 0.0]], [[1.0, 0.0]]), vectors([[1.0, 0.0]], [[0.0, 1.0]])
    theirs = MemoryVectors(theirs.targets, theirs.hidden, {**theirs.keys, "b": mine.keys["b"] * 7})
    assert float(similarities(theirs, mine, "keys")) == pytest.approx(0.5)


def test_the_own_quantile_looks_at_pairs_of_different_edits() -> None:
    mine = vectors([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    root = math.sqrt(0.5)
    assert own_quantile(mine, "targets", 0.0) == pytest.approx(0.0)
    assert own_quantile(mine, "targets", 1.0) == pytest.approx(root)
    assert own_quantile(mine, "targets", 0.5) == pytest.approx(root)
    assert own_quantile(mine.rows(torch.arange(1)), "targets", 0.5) is None

"""One Cholesky factorisation in place, and one jitter policy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fleke_flwr import factoring
from fleke_flwr.errors import StatisticsError
from fleke_flwr.factoring import add_products, add_symmetric, cholesky, factored
from tests.test_linalg import make


def test_cholesky_adds_jitter_only_when_it_must() -> None:
    matrix, keys, _ = make(5, 1, 2, 0)
    factor, jitter = cholesky(matrix)
    assert jitter == 0.0
    torch.testing.assert_close(factor @ factor.T, matrix)
    singular = keys @ keys.T
    factor, jitter = cholesky(singular - 1e-12 * torch.eye(5, dtype=torch.float64))
    assert 0 < jitter <= 1.01e-4
    torch.testing.assert_close(factor @ factor.T, singular, atol=1e-4, rtol=1e-3)


def test_hopeless_matrices_are_refused() -> None:
    with pytest.raises(StatisticsError, match="not positive definite"):
        cholesky(-torch.eye(3))
    with pytest.raises(StatisticsError, match="not positive definite"):
        cholesky(torch.zeros(3, 3))
    with pytest.raises(StatisticsError, match="NaN or infinity"):
        cholesky(torch.full((3, 3), float("nan")))


def test_a_matrix_is_symmetrised_and_left_alone() -> None:
    matrix, keys, _ = make(5, 1, 5, 0)
    skew = matrix + keys - keys.T
    before = skew.clone()
    factor, _ = cholesky(skew)
    torch.testing.assert_close(factor @ factor.T, matrix)
    assert torch.equal(skew, before)
    assert torch.equal(factor, factor.tril())
    narrow, _ = cholesky(matrix.float())
    assert narrow.dtype == torch.float64


@pytest.mark.parametrize("strip", [1, 3, 512])
def test_strips_do_not_matter(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factoring, "_STRIP", strip)
    matrix, keys, others = make(7, 7, 4, 0)
    found = torch.zeros(7, 7, dtype=torch.float64)
    add_symmetric(found, matrix, 0.5)
    add_products(found, keys, others)
    torch.testing.assert_close(found.tril(), (matrix / 2 + keys @ others.T).tril())


def test_the_matrix_is_factored_in_its_own_memory() -> None:
    matrix, _, _ = make(6, 1, 0, 0)
    seen: list[Tensor] = []

    def fill(sums: Tensor) -> None:
        assert not sums.any()
        seen.append(sums)
        add_symmetric(sums, matrix)

    factor, jitter = factored(6, fill)
    assert jitter == 0.0
    assert factor.data_ptr() == seen[0].data_ptr()


def test_a_failed_attempt_is_filled_again() -> None:
    tries = []

    def fill(sums: Tensor) -> None:
        tries.append(1)
        add_symmetric(sums, torch.ones(4, 4) - 1e-9 * torch.eye(4))

    factor, jitter = factored(4, fill)
    assert len(tries) > 1
    assert jitter > 0
    torch.testing.assert_close(factor @ factor.T, torch.ones(4, 4).double(), atol=1e-3, rtol=0)

"""The ridge kernel: every closed form against its slow twin, and the laws it must obey."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fleke_flwr.errors import StatisticsError
from fleke_flwr.linalg import Prior, cholesky, compress, solve, split_update, stack
from fleke_flwr.types import LayerStatistics, LayerUpdate

SHAPES = st.tuples(
    st.integers(1, 14), st.integers(1, 9), st.integers(0, 12), st.integers(0, 10_000)
)


def make(d_in: int, d_out: int, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a prior matrix, keys and residuals."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d_in, 3 * d_in, generator=generator, dtype=torch.float64)
    keys = torch.randn(d_in, n, generator=generator, dtype=torch.float64)
    residuals = torch.randn(d_out, n, generator=generator, dtype=torch.float64)
    return root @ root.T / d_in, keys, residuals


def factored(keys: Tensor, residuals: Tensor) -> LayerStatistics:
    """Wrap keys and residuals as they are."""
    return LayerStatistics(keys.shape[1], keys=keys, residuals=residuals)


def dense(statistics: LayerStatistics) -> LayerStatistics:
    """Return the same statistics as sums."""
    gram, cross = statistics.sums()
    return LayerStatistics(statistics.count, gram=gram, cross=cross)


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_dual_and_primal_are_the_explicit_solution(shape: tuple[int, int, int, int]) -> None:
    matrix, keys, residuals = make(*shape)
    expected = torch.linalg.solve(matrix + keys @ keys.T, keys @ residuals.T).T
    prior = Prior.from_matrix(matrix)
    for form in ("dual", "primal", "auto"):
        for statistics in (factored(keys, residuals), dense(factored(keys, residuals))):
            found = solve(statistics, prior, form)
            assert found.shape == (shape[1], shape[0])
            torch.testing.assert_close(found.dense(), expected, rtol=1e-8, atol=1e-9)


def test_the_solution_minimises_the_ridge_loss() -> None:
    matrix, keys, residuals = make(9, 4, 5, 3)
    update = solve(factored(keys, residuals), Prior.from_matrix(matrix)).dense().requires_grad_()
    loss = (residuals - update @ keys).square().sum() + (update @ matrix * update).sum()
    (gradient,) = torch.autograd.grad(loss, update)
    assert float(gradient.abs().max()) < 1e-9


def test_auto_takes_the_cheaper_form() -> None:
    matrix, keys, residuals = make(10, 3, 4, 0)
    prior = Prior.from_matrix(matrix)
    assert solve(factored(keys, residuals), prior).right is not None
    matrix, keys, residuals = make(10, 3, 9, 0)
    assert solve(factored(keys, residuals), Prior.from_matrix(matrix)).right is None


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_compress_keeps_the_sums(shape: tuple[int, int, int, int]) -> None:
    _, keys, residuals = make(*shape)
    found = compress(keys, residuals, keys.shape[1])
    gram, cross = found.sums()
    torch.testing.assert_close(gram, keys @ keys.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cross, residuals @ keys.T, rtol=1e-12, atol=1e-12)
    assert found.count == keys.shape[1]
    assert found.factors()[0].shape[1] <= min(keys.shape)


def test_compress_depends_on_the_sums_alone() -> None:
    _, keys, residuals = make(8, 5, 4, 1)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    first = compress(keys, residuals, 4)
    second = compress(keys @ rotation, residuals @ rotation, 4)
    for mine, theirs in zip(first.factors(), second.factors(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_compress_hides_residuals_outside_the_keys_row_space() -> None:
    _, keys, residuals = make(8, 5, 1, 2)
    twice = torch.cat([keys, keys], dim=1)
    spread = torch.cat([residuals + 7, residuals - 7], dim=1)
    plain = torch.cat([residuals, residuals], dim=1)
    found, expected = compress(twice, spread, 2), compress(twice, plain, 2)
    assert found.factors()[0].shape[1] == 1
    torch.testing.assert_close(found.factors()[1], expected.factors()[1])


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_sums_over_clients_are_the_pooled_solution(sizes: Sequence[int], seed: int) -> None:
    matrix, keys, residuals = make(7, 3, sum(sizes), seed)
    prior = Prior.from_matrix(matrix)
    parts = [
        compress(k, r, k.shape[1])
        for k, r in zip(keys.split(list(sizes), 1), residuals.split(list(sizes), 1), strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total.count == sum(sizes)
    expected = solve(factored(keys, residuals), prior).dense()
    torch.testing.assert_close(solve(total, prior).dense(), expected, rtol=1e-9, atol=1e-10)
    summed = dense(parts[0])
    for part in parts[1:]:
        summed = summed + dense(part)
    torch.testing.assert_close(solve(summed, prior).dense(), expected, rtol=1e-8, atol=1e-9)


def test_copies_of_one_edit_follow_the_residual_law() -> None:
    matrix, key, residual = make(6, 4, 1, 5)
    prior = Prior.from_matrix(matrix)
    leverage = float(prior.whiten(key).square().sum())
    for copies in (1, 2, 5):
        statistics = factored(key.expand(-1, copies), residual.expand(-1, copies))
        left = residual - solve(statistics, prior).dense() @ key
        torch.testing.assert_close(left, residual / (1 + copies * leverage))


def test_conflicting_edits_meet_in_the_middle() -> None:
    matrix, key, residuals = make(6, 4, 1, 5)[0], make(6, 4, 1, 5)[1], make(6, 4, 2, 6)[2]
    prior = Prior.from_matrix(matrix)
    leverage = float(prior.whiten(key).square().sum())
    moved = solve(factored(key.expand(-1, 2), residuals), prior).dense() @ key
    expected = 2 * leverage / (1 + 2 * leverage) * residuals.mean(1, keepdim=True)
    torch.testing.assert_close(moved, expected)


def test_a_stacked_prior_is_block_diagonal() -> None:
    first, second = make(4, 3, 2, 0)[0], make(6, 3, 2, 1)[0]
    prior = stack([Prior.from_matrix(first), Prior.from_matrix(second)])
    assert prior.sizes == (4, 6)
    torch.testing.assert_close(prior.matrix(), torch.block_diag(first, second))
    keys = make(10, 3, 5, 2)[1]
    factor = torch.linalg.cholesky(torch.block_diag(first, second))
    whitened = torch.linalg.solve_triangular(factor, keys, upper=False)
    torch.testing.assert_close(prior.whiten(keys), whitened)
    unwhitened = torch.linalg.solve_triangular(factor.T, keys, upper=True)
    torch.testing.assert_close(prior.unwhiten(keys), unwhitened)


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_a_stacked_solution_splits_into_layers(form: str) -> None:
    blocks = [make(4, 3, 2, 0)[0], make(6, 3, 2, 1)[0]]
    _, keys, residuals = make(10, 3, 5, 2)
    prior = stack([Prior.from_matrix(block) for block in blocks])
    whole = solve(factored(keys, residuals), prior, form)
    pieces = split_update(whole, prior.sizes)
    assert [piece.shape for piece in pieces] == [(3, 4), (3, 6)]
    joined = torch.cat([piece.dense() for piece in pieces], dim=1)
    torch.testing.assert_close(joined, whole.dense())


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


def test_a_prior_of_another_width_is_refused() -> None:
    matrix, _, _ = make(5, 1, 2, 0)
    _, keys, residuals = make(6, 2, 2, 0)
    with pytest.raises(StatisticsError, match="5 wide and the statistics 6"):
        solve(factored(keys, residuals), Prior.from_matrix(matrix))


def test_no_edit_gives_no_change() -> None:
    matrix, keys, residuals = make(5, 2, 0, 0)
    found = solve(compress(keys, residuals, 0), Prior.from_matrix(matrix))
    assert isinstance(found, LayerUpdate)
    assert torch.equal(found.dense(), torch.zeros(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_float32_factors_are_multiplied_in_float64(form: str) -> None:
    matrix, keys, residuals = make(8, 3, 3, 4)
    narrow = factored(keys.float(), residuals.float())
    same = factored(keys.float().double(), residuals.float().double())
    found = solve(narrow, Prior.from_matrix(matrix), form).dense()
    assert found.dtype == torch.float64
    assert torch.equal(found, solve(same, Prior.from_matrix(matrix), form).dense())

"""The ridge kernel: every closed form against its slow twin, and the laws it must obey."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fleke_flwr import factoring
from fleke_flwr.errors import StatisticsError
from fleke_flwr.linalg import (
    Prior,
    compress,
    demanded,
    solve,
    solve_group,
    split_update,
    stack,
)
from fleke_flwr.prior import SubspaceBlock
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


def test_auto_takes_the_smaller_form() -> None:
    matrix, keys, residuals = make(10, 3, 9, 0)
    prior = Prior.from_matrix(matrix)
    assert solve(factored(keys, residuals), prior).right is not None
    matrix, keys, residuals = make(10, 3, 10, 0)
    assert solve(factored(keys, residuals), Prior.from_matrix(matrix)).right is None


def weak_prior(d_in: int, columns: int, weight: float, decades: float) -> tuple[Tensor, ...]:
    """Return ``C`` with eigenvalues from ``weight`` down over decades, keys and residuals."""
    torch.manual_seed(d_in)
    basis = torch.linalg.qr(torch.randn(d_in, d_in, dtype=torch.float64))[0]
    sizes = weight * torch.logspace(0, -decades, d_in, dtype=torch.float64)
    matrix = basis * sizes @ basis.T
    keys = torch.randn(d_in, columns, dtype=torch.float64)
    return (matrix + matrix.T) / 2, keys, torch.randn(3, columns, dtype=torch.float64)


@pytest.mark.parametrize("weight", [1e-4, 1e-8])
def test_a_weak_prior_lets_targets_be_met(weight: float) -> None:
    matrix, keys, residuals = weak_prior(40, 30, weight, 6)
    update = solve(factored(keys, residuals), Prior.from_matrix(matrix)).dense()
    torch.testing.assert_close(update @ keys, residuals, rtol=1e-4, atol=1e-4)


def test_a_request_twice_under_a_weak_prior() -> None:
    matrix, keys, residuals = weak_prior(30, 5, 1e-12, 8)
    twice = factored(torch.cat([keys, keys], dim=1), torch.cat([residuals, residuals], dim=1))
    prior = Prior.from_matrix(matrix)
    found = solve(twice, prior).dense()
    torch.testing.assert_close(found @ keys, residuals, rtol=1e-6, atol=1e-6)


def test_more_columns_than_rows_where_the_prior_drowns() -> None:
    matrix, keys, residuals = weak_prior(30, 60, 1e-14, 8)
    flat = keys.clone()
    flat[-10:] = 0.0
    found = solve(factored(flat, residuals), Prior.from_matrix(matrix)).dense()
    best = torch.linalg.lstsq(flat[:-10].T, residuals.T).solution.T
    torch.testing.assert_close(found[:, :-10] @ flat[:-10], best @ flat[:-10], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_statistics_of_what_overflowed_are_refused(bad: float, place: int) -> None:
    _, keys, residuals = make(4, 3, 2, 0)
    pair = [keys, residuals]
    pair[place][0, 0] = bad
    with pytest.raises(StatisticsError, match="the model overflows"):
        compress(*pair, 2)


def test_many_columns_are_compressed_as_few() -> None:
    _, keys, residuals = make(7, 3, 40, 0)
    keys[6] = 2 * keys[0]
    found = compress(keys, residuals, 40)
    U, F = found.factors()
    _, s, Vt = torch.linalg.svd(keys, full_matrices=False)
    assert U.shape == (7, 6)
    torch.testing.assert_close(U.norm(dim=0), s[:6])
    torch.testing.assert_close(F.abs(), (residuals @ Vt[:6].T).abs())
    torch.testing.assert_close(U @ U.T, keys @ keys.T)


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


def ill(size: int, condition: float, seed: int) -> Tensor:
    """Return a covariance whose eigenvalues span ``condition``."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    exponents = torch.linspace(0, 1, size, dtype=torch.float64)
    return basis * condition**-exponents @ basis.T


def assert_near(found: LayerUpdate, expected: LayerUpdate, tolerance: float = 1e-8) -> None:
    """Compare two updates by their relative distance."""
    difference = (found.dense() - expected.dense()).norm()
    assert float(difference) <= tolerance * float(expected.dense().norm()) + 1e-12


WITHDRAWN = st.tuples(
    st.integers(1, 12), st.integers(0, 6), st.integers(1, 6), st.integers(0, 6), st.integers(0, 999)
)


@settings(max_examples=60, deadline=None)
@given(WITHDRAWN)
def test_a_withdrawn_client_was_never_there(shape: tuple[int, int, int, int, int]) -> None:
    d_in, first, second, third, seed = shape
    matrix, keys, residuals = make(d_in, 4, first + second + third, seed)
    prior = Prior.from_matrix(matrix)
    sizes = [first, second, third]
    parts = [
        compress(k, r, k.shape[1])
        for k, r in zip(keys.split(sizes, 1), residuals.split(sizes, 1), strict=True)
    ]
    left = parts[0] + parts[1] + parts[2] - parts[1]
    expected = solve(parts[0] + parts[2], prior, "dual")
    for form in ("dual", "primal", "auto"):
        assert_near(solve(left, prior, form), expected)
    assert_near(solve(dense(left), prior), expected)
    assert_near(solve(left + parts[1], prior, "dual"), solve(left + parts[1], prior, "primal"))


@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_withdrawing_does_not_square_the_priors_condition(condition: float) -> None:
    prior = Prior.from_matrix(ill(80, condition, 0))
    _, keys, residuals = make(80, 6, 30, 1)
    stays, goes = (
        factored(k, r) for k, r in zip(keys.split(15, 1), residuals.split(15, 1), strict=True)
    )
    expected = solve(stays, prior, "dual")
    for form in ("dual", "primal"):
        assert_near(solve(stays + goes - goes, prior, form), expected)


@pytest.mark.parametrize("condition", [1e2, 1e6])
@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize("columns", [3, 12])
def test_withdrawing_from_a_group_of_layers(condition: float, in_turn: bool, columns: int) -> None:
    priors = [Prior.from_matrix(ill(size, condition, size)) for size in (16, 20, 16)]
    _, keys, residuals = make(52, 5, 2 * columns, 1)
    stays, goes = (
        factored(k, r)
        for k, r in zip(keys.split(columns, 1), residuals.split(columns, 1), strict=True)
    )
    expected = solve_group(stays, priors, in_turn)
    left = stays + goes - goes
    for statistics in (left, dense(left)):
        for found, wanted in zip(solve_group(statistics, priors, in_turn), expected, strict=True):
            assert_near(found, wanted)


def test_withdrawing_what_was_never_pooled_is_refused() -> None:
    matrix, keys, residuals = make(6, 4, 2, 0)
    first, second = (
        factored(k, r) for k, r in zip(keys.split(1, 1), residuals.split(1, 1), strict=True)
    )
    prior = Prior.from_matrix(matrix * 1e-3)
    with pytest.raises(StatisticsError, match="more was withdrawn than was pooled"):
        solve(first - second, prior, "dual")
    with pytest.raises(StatisticsError, match="not positive definite"):
        solve(first - second, prior, "primal")


@pytest.mark.parametrize("pooled_form", [factored, lambda k, r: dense(factored(k, r))])
@pytest.mark.parametrize("in_turn", [False, True])
def test_a_further_sweep_leaves_the_optimum_of_a_linear_model(
    pooled_form: Callable[[Tensor, Tensor], LayerStatistics], in_turn: bool
) -> None:
    priors = [Prior.from_matrix(make(size, 1, 0, size)[0]) for size in (7, 9)]
    _, keys, wanted = make(16, 4, 5, 3)
    first = LayerUpdate(
        torch.cat([u.dense() for u in solve_group(pooled_form(keys, wanted), priors, in_turn)], 1)
    )
    assert float((wanted - first.dense() @ keys).norm()) > 0.01 * float(wanted.norm())
    left = pooled_form(keys, wanted - first.dense() @ keys)
    again = solve_group(demanded(left, first), priors, in_turn)
    assert_near(LayerUpdate(torch.cat([u.dense() for u in again], 1)), first, 1e-10)


def test_the_total_update_is_asked_for_the_rest_and_what_it_gives() -> None:
    _, keys, residuals = make(8, 3, 5, 0)
    total = LayerUpdate(make(3, 1, 2, 1)[1], make(2, 1, 8, 2)[1])
    statistics = factored(keys, residuals)
    expected = factored(keys, residuals + total.dense() @ keys)
    for update in (total, LayerUpdate(total.dense())):
        for form in (statistics, dense(statistics), compress(keys, residuals, 5)):
            found = demanded(form, update)
            assert found.is_factored == form.is_factored
            assert found.count == 5
            for mine, theirs in zip(found.sums(), expected.sums(), strict=True):
                torch.testing.assert_close(mine, theirs)
    signed = statistics - factored(keys[:, :2], residuals[:, :2])
    rest = factored(keys[:, 2:], residuals[:, 2:])
    pairs = zip(demanded(signed, total).sums(), demanded(rest, total).sums(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(StatisticsError, match="different groups"):
        demanded(statistics, LayerUpdate(total.dense()[:, 1:]))


@pytest.mark.parametrize("strip", [3, 512])
def test_the_statistics_are_left_as_they_were(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factoring, "_STRIP", strip)
    matrix, keys, residuals = make(10, 3, 9, 0)
    prior = Prior.from_matrix(matrix)
    expected = torch.linalg.solve(matrix + keys @ keys.T, keys @ residuals.T).T
    for statistics in (factored(keys, residuals), dense(factored(keys, residuals))):
        before = [part.clone() for part in statistics.sums()]
        torch.testing.assert_close(solve(statistics, prior, "primal").dense(), expected)
        assert all(map(torch.equal, statistics.sums(), before))
    torch.testing.assert_close(prior.matrix(), matrix)


SUBSPACES = st.tuples(
    st.integers(2, 14), st.integers(1, 13), st.integers(0, 12), st.integers(0, 10_000)
)


def subspace(size: int, rank: int, seed: int, weight: float = 0.5) -> SubspaceBlock:
    """Return a random subspace of at most ``size`` directions."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(size, min(rank, size), generator=generator, dtype=torch.float64)
    return SubspaceBlock(torch.linalg.qr(columns)[0], weight)


@settings(max_examples=60, deadline=None)
@given(SUBSPACES)
def test_inside_a_subspace_it_is_the_projected_system(shape: tuple[int, int, int, int]) -> None:
    d_in, rank, n, seed = shape
    _, keys, residuals = make(d_in, 3, n, seed)
    block = subspace(d_in, rank, seed)
    P = block.basis @ block.basis.T
    system = P @ keys @ keys.T + 0.5 * torch.eye(d_in, dtype=torch.float64)
    expected = torch.linalg.solve(system, P @ keys @ residuals.T).T
    for form in ("dual", "primal", "auto"):
        for statistics in (factored(keys, residuals), dense(factored(keys, residuals))):
            found = solve(statistics, Prior.of([block]), form).dense()
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(found @ P, found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("in_turn", [False, True])
def test_subspaces_and_matrices_in_one_group(in_turn: bool) -> None:
    """A subspace is the limit of a matrix that is heavy outside of it."""
    block = subspace(8, 5, 0)
    P = block.basis @ block.basis.T
    heavy = Prior.from_matrix(0.5 * P + 1e7 * (torch.eye(8, dtype=torch.float64) - P))
    others = [Prior.from_matrix(make(size, 1, 0, size)[0]) for size in (6, 7)]
    _, keys, residuals = make(21, 4, 3, 1)
    statistics = factored(keys, residuals)
    expected = solve_group(statistics, [others[0], heavy, others[1]], in_turn)
    for form in (statistics, dense(statistics)):
        found = solve_group(form, [others[0], Prior.of([block]), others[1]], in_turn)
        for mine, theirs in zip(found, expected, strict=True):
            assert_near(mine, theirs, 1e-5)


@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize("columns", [2, 12])
def test_withdrawing_from_subspaces(in_turn: bool, columns: int) -> None:
    priors = [Prior.of([subspace(size, 9, size, 1e-3)]) for size in (16, 20)]
    _, keys, residuals = make(36, 5, 2 * columns, 1)
    stays, goes = (
        factored(k, r)
        for k, r in zip(keys.split(columns, 1), residuals.split(columns, 1), strict=True)
    )
    expected = solve_group(stays, priors, in_turn)
    left = stays + goes - goes
    for statistics in (left, dense(left)):
        for found, wanted in zip(solve_group(statistics, priors, in_turn), expected, strict=True):
            assert_near(found, wanted)
    for broken in (goes - stays, dense(goes - stays)):
        with pytest.raises(StatisticsError, match=r"more was withdrawn|not positive definite"):
            solve_group(broken, priors, in_turn)


def test_a_further_sweep_stays_inside_a_subspace() -> None:
    block = subspace(9, 4, 2)
    prior = Prior.of([block])
    _, keys, wanted = make(9, 4, 5, 3)
    first = solve(factored(keys, wanted), prior)
    left = factored(keys, wanted - first.dense() @ keys)
    assert_near(solve(demanded(left, first), prior), first, 1e-10)

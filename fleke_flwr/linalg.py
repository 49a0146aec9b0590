"""The one ridge kernel: ``Delta = B (C + S)^-1`` in primal and dual form, in float64.

Letters, in this module: ``K (d_in, n)`` keys, ``R (d_out, n)`` residuals, ``U (d_in, r)`` and
``F (d_out, r)`` factors with ``S = U E U^T``, ``B = F E U^T``, where ``E (r, r)`` is diagonal with
-1 for what was withdrawn and +1 for the rest; ``C (d_in, d_in)`` the prior, block diagonal when
several layers are solved together; ``L`` its lower Cholesky factor; ``A = C + S``.

Sources: MEMIT eq. 14 (the ridge solution), CollabEdit eq. 3 and 12 (pooled from sums), the Woodbury
identity (the dual form). Departs from the released codes: Cholesky in float64 instead of an
explicit inverse, one stated jitter policy, the dual form when it is cheaper, and never more than
one new ``d_in x d_in`` matrix: ``A`` is summed up in the memory in which it is factored.

Where a projection may change inside a subspace only (AlphaEdit), ``C`` is no matrix but its inverse
is: ``C^-1 = W^T W`` with ``W (k, d_in)``. The dual form needs nothing else, and in the place of the
primal one stands ``Delta = B W^T (I + W S W^T)^-1 W``, a solve of size ``k``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from fleke_flwr.errors import StatisticsError
from fleke_flwr.factoring import add_products, add_symmetric, factored, strips
from fleke_flwr.prior import Prior, stack
from fleke_flwr.types import LayerStatistics, LayerUpdate

__all__ = [
    "Prior",
    "compress",
    "demanded",
    "solve",
    "solve_group",
    "split_update",
    "stack",
]


def solve(statistics: LayerStatistics, prior: Prior, form: str = "auto") -> LayerUpdate:
    """Solve the ridge problem ``Delta (C + S) = B``.

    Parameters
    ----------
    statistics : LayerStatistics
        ``(U, F)``, with signs if something was withdrawn, or ``(S, B)`` of everything that is to be
        edited at once.
    prior : Prior
        ``C`` of the same group.
    form : str
        ``"dual"`` solves ``r x r``, ``"primal"`` solves ``d_in x d_in``, or ``k x k`` inside a
        subspace, ``"auto"`` takes the smaller; dense statistics are always solved in the primal
        form. The dual form loses nothing where the prior is weak, the primal one as many digits as
        ``C + S`` has condition.

    Returns
    -------
    LayerUpdate
        ``(d_out, d_in)`` in float64; a product of rank ``r`` at most from the dual form.

    Raises
    ------
    StatisticsError
        If prior and statistics are of different width, or more was withdrawn than was pooled.
    """
    if prior.d_in != statistics.d_in:
        raise StatisticsError(
            f"the prior is {prior.d_in} wide and the statistics {statistics.d_in}: "
            "they belong to different projections or to different models"
        )
    primal = _solve_primal if prior.finite else _solve_whitened
    if not statistics.is_factored:
        return primal(statistics, prior)
    columns = statistics.signed_factors()[0].shape[1]
    if form == "primal" or (form == "auto" and columns >= prior.rank):
        return primal(statistics, prior)
    if statistics.signs is not None:
        return _solve_rotated(statistics, prior)
    return _solve_dual(statistics, prior)


def _solve_dual(statistics: LayerStatistics, prior: Prior) -> LayerUpdate:
    """``Delta = F (I + U^T C^-1 U)^-1 U^T C^-1``."""
    keys, residuals = statistics.factors()
    gram, right = prior.leverage(keys)
    gram.diagonal().add_(1.0)
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info) != 0:
        # A key that stands there twice, with a leverage above 1e14, drowns the identity.
        return _solve_rotated(statistics, prior)
    left = torch.cholesky_solve(residuals.to(torch.float64).T, factor).T
    return LayerUpdate(left, right.T)


def _solve_rotated(statistics: LayerStatistics, prior: Prior) -> LayerUpdate:
    """``Delta = F E T^T (I + T E T^T)^-1 Q^T L^-1`` with the QR factors ``Q T = L^-1 U``.

    Woodbury alone would give ``F (E + U^T C^-1 U)^-1 U^T C^-1``, where columns that cancel make the
    matrix indefinite and as ill-conditioned as the square of their leverage. Here they cancel in a
    sum of squares, before anything is divided, and what is factored is at least ``I``.
    """
    keys, residuals, signs = (part.to(torch.float64) for part in statistics.signed_factors())
    Q, T = torch.linalg.qr(prior.whiten(keys))
    signed = T * signs
    matrix = signed @ T.T
    matrix.diagonal().add_(1.0)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 and statistics.signs is None:
        raise StatisticsError("keys are so long against the prior that their squares overflow")
    if int(info) != 0:
        raise StatisticsError(
            "more was withdrawn than was pooled: the sums are no longer those of any edits; "
            "withdraw exactly what a client contributed, once"
        )
    left = torch.cholesky_solve(signed @ residuals.T, factor).T
    return LayerUpdate(left, prior.unwhiten(Q).T)


def _solve_primal(statistics: LayerStatistics, prior: Prior) -> LayerUpdate:
    def fill(matrix: Tensor) -> None:
        prior.add_to(matrix)
        _add_gram(matrix, statistics)

    factor, jitter = factored(prior.d_in, fill)
    if jitter:
        # C + S has a factor whenever C has one, were it not for rounding.
        return _solve_whitened(statistics, prior)
    update = _cross(statistics)
    _divide(update, factor)
    return LayerUpdate(update)


def _solve_whitened(statistics: LayerStatistics, prior: Prior) -> LayerUpdate:
    """``Delta = B W^T (I + W S W^T)^-1 W``, which needs no ``C``."""
    whitened = _whitened(statistics, prior)

    def fill(matrix: Tensor) -> None:
        matrix.diagonal().add_(1.0)
        _add_gram(matrix, whitened)

    inside = _cross(whitened)
    factor, _ = factored(prior.rank, fill)
    _divide(inside, factor)
    return LayerUpdate(prior.unwhiten(inside.T).T)


def _whitened(statistics: LayerStatistics, prior: Prior) -> LayerStatistics:
    """Return the statistics of the keys ``W K``."""
    if statistics.is_factored:
        keys, residuals, _ = statistics.signed_factors()
        return LayerStatistics(
            statistics.count,
            keys=prior.whiten(keys),
            residuals=residuals.to(torch.float64),
            signs=statistics.signs,
        )
    gram, cross = statistics.sums()
    return LayerStatistics(
        statistics.count,
        gram=prior.whiten(prior.whiten(gram).T),
        cross=prior.whiten(cross.T).T,
    )


def _add_gram(matrix: Tensor, statistics: LayerStatistics) -> None:
    """Add the lower triangle of ``S``."""
    if statistics.gram is not None:
        add_symmetric(matrix, statistics.gram)
        return
    for keys, _, signed in _column_strips(statistics):
        add_products(matrix, keys, signed)


def _divide(update: Tensor, factor: Tensor) -> None:
    """Multiply ``B`` by ``(L L^T)^-1`` from the right, in place."""
    torch.linalg.solve_triangular(factor.T, update, upper=True, left=False, out=update)
    torch.linalg.solve_triangular(factor, update, upper=False, left=False, out=update)


def _cross(statistics: LayerStatistics) -> Tensor:
    """Return a new ``B (d_out, d_in)`` in float64."""
    if statistics.cross is not None:
        return statistics.cross.to(torch.float64, copy=True)
    cross = torch.zeros(statistics.d_out, statistics.d_in, dtype=torch.float64)
    for _, residuals, signed in _column_strips(statistics):
        cross.addmm_(residuals, signed.T)
    return cross


def _column_strips(statistics: LayerStatistics) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield a few columns of ``U``, of ``F`` and of ``U E`` at a time, in float64.

    Products of float32 factors would lose what the factors hold, and all of them in float64 would
    take twice the memory of what came in.
    """
    parts = statistics.signed_factors()
    for start, stop in strips(parts[0].shape[1]):
        keys, residuals, signs = (part[..., start:stop].to(torch.float64) for part in parts)
        yield keys, residuals, keys if statistics.signs is None else keys * signs


def demanded(statistics: LayerStatistics, total: LayerUpdate) -> LayerStatistics:
    """Return what the total update is asked for, given statistics of a model that carries one.

    The residuals ``R`` that are left on a model with the update ``Delta`` ask the total update for
    ``R + Delta K``: ``F + Delta U`` in factors, ``B + Delta S`` in sums. Solving for these weighs
    the whole update with the prior, however often its requests have been gone over.

    Parameters
    ----------
    statistics : LayerStatistics
        Read on the model that carries ``total``.
    total : LayerUpdate
        ``Delta (d_out, d_in)`` of the same group, stacked as its keys are.

    Raises
    ------
    StatisticsError
        If update and statistics are of different shape.
    """
    if total.shape != (statistics.d_out, statistics.d_in):
        raise StatisticsError(
            f"the total update has shape {total.shape}, the statistics ask for one of "
            f"{(statistics.d_out, statistics.d_in)}: they belong to different groups"
        )
    wide = total.to(torch.float64)
    if not statistics.is_factored:
        gram, cross = (matrix.to(torch.float64) for matrix in statistics.sums())
        return LayerStatistics(statistics.count, gram=gram, cross=cross + _times(wide, gram))
    keys, residuals, _ = (part.to(torch.float64) for part in statistics.signed_factors())
    return LayerStatistics(
        statistics.count,
        keys=keys,
        residuals=residuals + _times(wide, keys),
        signs=statistics.signs,
    )


def _times(update: LayerUpdate, columns: Tensor) -> Tensor:
    """Return ``Delta @ columns`` without writing a product of few columns out."""
    return update.left @ (columns if update.right is None else update.right @ columns)


def solve_group(
    statistics: LayerStatistics, priors: Sequence[Prior], in_turn: bool
) -> list[LayerUpdate]:
    """Solve for all projections of a group: at once, or one after the other.

    In turn, layer ``l`` of ``m`` is asked for an equal part of what the earlier ones leave:
    ``R_l = (R - sum_{j<l} Delta_j K_j) / (m - l)``, which is known from the stacked statistics,
    also in their dense form, where it takes the blocks of ``S`` that join two layers.

    Parameters
    ----------
    statistics : LayerStatistics
        Keys of all projections stacked.
    priors : Sequence[Prior]
        One for each projection, in layer order.
    in_turn : bool
        Whether the layers are solved one after the other.

    Returns
    -------
    list[LayerUpdate]
        One for each projection, in float64.
    """
    whole = stack(priors)
    if not in_turn:
        return split_update(solve(statistics, whole), whole.sizes)
    if statistics.d_in != whole.d_in:
        raise StatisticsError(
            f"the priors are {whole.d_in} wide and the statistics {statistics.d_in}"
        )
    if statistics.is_factored:
        return _factors_in_turn(statistics, priors)
    return _sums_in_turn(statistics, priors)


def _factors_in_turn(statistics: LayerStatistics, priors: Sequence[Prior]) -> list[LayerUpdate]:
    keys, left, _ = (part.to(torch.float64) for part in statistics.signed_factors())
    updates = []
    for index, block in enumerate(_cut(keys.T, [prior.d_in for prior in priors])):
        asked = left / (len(priors) - index)
        layer = LayerStatistics(
            statistics.count, keys=block.T, residuals=asked, signs=statistics.signs
        )
        update = solve(layer, priors[index])
        updates.append(update)
        left = left - _times(update, block.T)
    return updates


def _sums_in_turn(statistics: LayerStatistics, priors: Sequence[Prior]) -> list[LayerUpdate]:
    gram, cross = (matrix.to(torch.float64) for matrix in statistics.sums())
    sizes = [prior.d_in for prior in priors]
    rows = [_cut(block.T, sizes) for block in _cut(gram.T, sizes)]
    updates: list[LayerUpdate] = []
    for index, asked in enumerate(_cut(cross, sizes)):
        for earlier, update in enumerate(updates):
            asked = asked - update.dense() @ rows[earlier][index]
        layer = LayerStatistics(
            statistics.count, gram=rows[index][index], cross=asked / (len(priors) - index)
        )
        updates.append(solve(layer, priors[index]))
    return updates


def split_update(update: LayerUpdate, sizes: Sequence[int]) -> list[LayerUpdate]:
    """Cut the update of a stacked group into the updates of its projections."""
    columns = update.left if update.right is None else update.right
    pieces = _cut(columns, sizes)
    if update.right is None:
        return [LayerUpdate(piece) for piece in pieces]
    return [LayerUpdate(update.left, piece) for piece in pieces]


def _cut(matrix: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Cut the columns of a matrix into pieces of the given widths."""
    ends = list(accumulate(sizes))
    return [matrix[:, end - size : end] for end, size in zip(ends, sizes, strict=True)]


def compress(keys: Tensor, residuals: Tensor, count: int) -> LayerStatistics:
    """Reduce ``(K, R)`` to factors that hold exactly what ``(S, B)`` holds.

    With the thin singular value decomposition ``K = P diag(s) V^T`` the factors are
    ``U = P diag(s)`` and ``F = R V``; directions with ``s`` below 1e-13 of the largest are dropped,
    so the part of ``R`` outside the row space of ``K`` is not revealed. The sign of every column is
    fixed (largest entry positive), which makes the result a function of ``(S, B)`` alone as long as
    the singular values are distinct.

    Parameters
    ----------
    keys : Tensor
        ``K (d_in, n)``, stacked over the group.
    residuals : Tensor
        ``R (d_out, n)``.
    count : int
        Number of edits behind the columns.

    Raises
    ------
    StatisticsError
        If a number is not finite.
    """
    K, R = keys.to(torch.float64), residuals.to(torch.float64)
    for name, matrix in (("keys", K), ("residuals", R)):
        if not bool(torch.isfinite(matrix).all()):
            raise StatisticsError(
                f"{name} of {count} edits hold NaN or infinity: the model overflows on their "
                "prompts; use model.dtype = float32 or bfloat16"
            )
    if K.shape[1] > K.shape[0]:
        K, R = _triangle(K, R)
    P, s, Vt = torch.linalg.svd(K, full_matrices=False)
    kept = s > (s[:1].sum() * 1e-13)
    P, s, V = P[:, kept], s[kept], Vt[kept].T
    if P.shape[1]:
        signs = torch.sign(P.gather(0, P.abs().argmax(dim=0, keepdim=True)))
        P, V = P * signs, V * signs
    return LayerStatistics(count, keys=P * s, residuals=R @ V)


def _triangle(K: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Return a square ``(T^T, R Q)`` with the sums of ``(K, R)``, from ``K^T = Q T``.

    ``Q (n, d_in)`` is never written out: the singular values of many columns cost what those of
    ``d_in`` columns do.
    """
    width = len(K)
    packed, scales = torch.geqrf(K.T.contiguous())
    rotated = torch.ormqr(packed, scales, R.T.contiguous(), left=True, transpose=True)
    return packed[:width].triu().T, rotated[:width].T

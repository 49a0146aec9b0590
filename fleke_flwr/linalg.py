"""The one ridge kernel: ``Delta = B (C + S)^-1`` in primal and dual form, in float64.

Letters, in this module: ``K (d_in, n)`` keys, ``R (d_out, n)`` residuals, ``U (d_in, r)`` and
``F (d_out, r)`` factors with ``S = U U^T``, ``B = F U^T``; ``C (d_in, d_in)`` the prior, block
diagonal when several layers are solved together; ``L`` its lower Cholesky factor.

Sources: MEMIT eq. 14 (the ridge solution), CollabEdit eq. 3 and 12 (pooled from sums), the Woodbury
identity (the dual form). Departs from the released codes: Cholesky in float64 instead of an
explicit inverse, one stated jitter policy, the dual form when it is cheaper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fleke_flwr.errors import StatisticsError
from fleke_flwr.types import LayerStatistics, LayerUpdate

_FIRST_JITTER = 1e-10
_LAST_JITTER = 1e-4


@dataclass(frozen=True)
class Prior:
    """What the edited projections already store, factored once.

    Parameters
    ----------
    blocks : tuple[Tensor, ...]
        Lower Cholesky factors ``L (d, d)`` in float64, one per projection of the group.
    jitters : tuple[float, ...]
        Multiple of the mean diagonal that had to be added to each block; 0 when none was.
    """

    blocks: tuple[Tensor, ...]
    jitters: tuple[float, ...]

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Prior:
        """Factor one prior matrix ``C (d, d)``, adding jitter only if it must.

        Raises
        ------
        StatisticsError
            If the matrix is not finite, or stays indefinite with the largest jitter.
        """
        factor, jitter = cholesky(matrix)
        return cls((factor,), (jitter,))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Input width of every projection of the group."""
        return tuple(int(block.shape[0]) for block in self.blocks)

    @property
    def d_in(self) -> int:
        """Width of the stacked keys."""
        return sum(self.sizes)

    def whiten(self, keys: Tensor) -> Tensor:
        """Return ``L^-1 U`` for stacked ``U (d_in, r)``."""
        pieces = _cut(keys.to(torch.float64).T, self.sizes)
        return torch.cat(
            [
                torch.linalg.solve_triangular(block, piece.T, upper=False)
                for block, piece in zip(self.blocks, pieces, strict=True)
            ]
        )

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return ``L^-T Y`` for stacked ``Y (d_in, r)``."""
        pieces = _cut(whitened.T, self.sizes)
        return torch.cat(
            [
                torch.linalg.solve_triangular(block.T, piece.T, upper=True)
                for block, piece in zip(self.blocks, pieces, strict=True)
            ]
        )

    def matrix(self) -> Tensor:
        """Return ``C``, block diagonal over the group."""
        matrix = torch.zeros(self.d_in, self.d_in, dtype=torch.float64)
        start = 0
        for block in self.blocks:
            stop = start + len(block)
            matrix[start:stop, start:stop] = block @ block.T
            start = stop
        return matrix


def stack(priors: Iterable[Prior]) -> Prior:
    """Join the priors of several projections into the prior of their group."""
    members = list(priors)
    return Prior(
        tuple(block for prior in members for block in prior.blocks),
        tuple(jitter for prior in members for jitter in prior.jitters),
    )


def cholesky(matrix: Tensor) -> tuple[Tensor, float]:
    """Factor a symmetric matrix in float64; return ``(L, jitter)``.

    The matrix is symmetrised first. On failure ``jitter * mean(diag) * I`` is added, starting at
    1e-10 and growing tenfold to 1e-4: a covariance accumulated in float32 has noise there.

    Raises
    ------
    StatisticsError
        If the matrix is not finite or no jitter up to the last one makes it positive definite.
    """
    symmetric = matrix.to(torch.float64)
    symmetric = (symmetric + symmetric.T) / 2
    if not torch.isfinite(symmetric).all():
        raise StatisticsError(
            f"a matrix of shape {tuple(matrix.shape)} to be factored holds NaN or infinity; "
            "recompute the covariance, or leave out the client that sent it"
        )
    scale = symmetric.diagonal().mean()
    jitter = 0.0
    while True:
        shifted = symmetric + jitter * scale * torch.eye(
            len(symmetric), dtype=torch.float64, device=symmetric.device
        )
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return factor, jitter
        jitter = _FIRST_JITTER if jitter == 0.0 else jitter * 10
        if jitter > _LAST_JITTER * 1.01:
            raise StatisticsError(
                f"a matrix of shape {tuple(matrix.shape)} is not positive definite, even with "
                f"{_LAST_JITTER:g} of its mean diagonal added; use more covariance tokens"
            )


def solve(statistics: LayerStatistics, prior: Prior, form: str = "auto") -> LayerUpdate:
    """Solve the ridge problem ``Delta (C + S) = B``.

    Parameters
    ----------
    statistics : LayerStatistics
        ``(U, F)`` or ``(S, B)`` of everything that is to be edited at once.
    prior : Prior
        ``C`` of the same group.
    form : str
        ``"dual"`` solves ``r x r``, ``"primal"`` solves ``d_in x d_in``, ``"auto"`` takes the
        cheaper; dense statistics are always solved in the primal form.

    Returns
    -------
    LayerUpdate
        ``(d_out, d_in)`` in float64; a product of rank ``r`` from the dual form.

    Raises
    ------
    StatisticsError
        If prior and statistics are of different width.
    """
    if prior.d_in != statistics.d_in:
        raise StatisticsError(
            f"the prior is {prior.d_in} wide and the statistics {statistics.d_in}: "
            "they belong to different projections or to different models"
        )
    if statistics.is_factored:
        keys, residuals = (factor.to(torch.float64) for factor in statistics.factors())
        if form == "dual" or (form == "auto" and keys.shape[1] * 2 < keys.shape[0]):
            return _solve_dual(keys, residuals, prior)
        # Products of float32 factors would lose what the factors hold.
        statistics = LayerStatistics(statistics.count, keys=keys, residuals=residuals)
    return _solve_primal(statistics, prior)


def _solve_dual(keys: Tensor, residuals: Tensor, prior: Prior) -> LayerUpdate:
    whitened = prior.whiten(keys)
    gram = whitened.T @ whitened
    gram.diagonal().add_(1.0)
    factor = torch.linalg.cholesky(gram)
    left = torch.cholesky_solve(residuals.T, factor).T
    return LayerUpdate(left, prior.unwhiten(whitened).T)


def _solve_primal(statistics: LayerStatistics, prior: Prior) -> LayerUpdate:
    gram, cross = (matrix.to(torch.float64) for matrix in statistics.sums())
    factor, _ = cholesky(prior.matrix() + gram)
    return LayerUpdate(torch.cholesky_solve(cross.T, factor).T)


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
    keys, left = (factor.to(torch.float64) for factor in statistics.factors())
    updates = []
    for index, block in enumerate(_cut(keys.T, [prior.d_in for prior in priors])):
        asked = left / (len(priors) - index)
        layer = LayerStatistics(statistics.count, keys=block.T, residuals=asked)
        update = solve(layer, priors[index])
        updates.append(update)
        right = block.T if update.right is None else update.right @ block.T
        left = left - update.left @ right
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
    """
    K, R = keys.to(torch.float64), residuals.to(torch.float64)
    P, s, Vt = torch.linalg.svd(K, full_matrices=False)
    kept = s > (s[:1].sum() * 1e-13)
    P, s, V = P[:, kept], s[kept], Vt[kept].T
    if P.shape[1]:
        signs = torch.sign(P.gather(0, P.abs().argmax(dim=0, keepdim=True)))
        P, V = P * signs, V * signs
    return LayerStatistics(count, keys=P * s, residuals=R @ V)

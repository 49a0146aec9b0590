"""Cholesky factors in float64, made in the memory in which the matrix was summed up.

One new ``d x d`` matrix is all that is held: the parts of a sum are added to its lower triangle a
few columns at a time, and LAPACK turns that triangle into the factor. There is one jitter policy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fleke_flwr.errors import StatisticsError

_FIRST_JITTER = 1e-10
_LAST_JITTER = 1e-4
# Columns that are converted, or multiplied out, at a time.
_STRIP = 512


def cholesky(matrix: Tensor) -> tuple[Tensor, float]:
    """Factor a symmetric matrix in float64; return ``(L, jitter)``.

    The matrix is symmetrised first. On failure ``jitter * mean(diag) * I`` is added, starting at
    1e-10 and growing tenfold to 1e-4: a covariance accumulated in float32 has noise there.

    Raises
    ------
    StatisticsError
        If the matrix is not finite or no jitter up to the last one makes it positive definite.
    """
    return factored(len(matrix), lambda sums: add_symmetric(sums, matrix))


def factored(size: int, fill: Callable[[Tensor], None]) -> tuple[Tensor, float]:
    """Factor in place what ``fill`` adds to the lower triangle of a zero matrix.

    An attempt that fails leaves nothing of the matrix, so it is filled again for the next one.

    Parameters
    ----------
    size : int
        Width ``d`` of the matrix.
    fill : Callable[[Tensor], None]
        Adds to the lower triangle of a ``(d, d)`` matrix in float64; the upper one is not looked
        at.

    Raises
    ------
    StatisticsError
        As :func:`cholesky`, whose jitter policy this is.
    """
    # LAPACK wants columns: in any other order the factor would be made in a second matrix.
    matrix = torch.empty(size, size, dtype=torch.float64).T
    info = torch.zeros((), dtype=torch.int32)
    jitter = 0.0
    while True:
        fill(matrix.zero_())
        if not torch.isfinite(matrix.sum()):
            raise StatisticsError(
                f"a matrix of shape {tuple(matrix.shape)} to be factored holds NaN or infinity; "
                "recompute the covariance, or leave out the client that sent it"
            )
        diagonal = matrix.diagonal()
        diagonal += jitter * diagonal.mean()
        torch.linalg.cholesky_ex(matrix, out=(matrix, info))
        if int(info) == 0:
            return matrix, jitter
        jitter = _FIRST_JITTER if jitter == 0.0 else jitter * 10
        if jitter > _LAST_JITTER * 1.01:
            raise StatisticsError(
                f"a matrix of shape {tuple(matrix.shape)} is not positive definite, even with "
                f"{_LAST_JITTER:g} of its mean diagonal added; use more covariance tokens"
            )


def strips(size: int) -> list[tuple[int, int]]:
    """Cut a number of columns into strips ``(start, stop)``."""
    return [(start, min(start + _STRIP, size)) for start in range(0, size, _STRIP)]


def add_symmetric(matrix: Tensor, other: Tensor, factor: float = 1.0) -> None:
    """Add the lower triangle of ``factor`` times the symmetric part of a matrix."""
    for start, stop in strips(len(matrix)):
        # Two additions instead of one of a sum, which would be a matrix of its own.
        column = matrix[start:, start:stop]
        column.add_(other[start:, start:stop], alpha=factor / 2)
        column.add_(other[start:stop, start:].T, alpha=factor / 2)


def add_products(matrix: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the lower triangle of ``left @ right^T``."""
    for start, stop in strips(len(matrix)):
        matrix[start:, start:stop].addmm_(left[start:], right[start:stop].T)

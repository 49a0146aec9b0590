"""What edited projections already store: the prior ``C``, by Cholesky factors.

Letters: ``C (d_in, d_in)`` the prior, block diagonal when several projections are solved together;
``L (d, d)`` the lower Cholesky factor of one block; ``U (d_in, r)`` stacked keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fleke_flwr.factoring import cholesky, strips


class PriorBlock(Protocol):
    """The prior of one projection; where its factor is kept, or made again, is its own affair."""

    @property
    def size(self) -> int:
        """Input width of the projection."""

    @property
    def jitter(self) -> float:
        """Multiple of the mean diagonal that had to be added; 0 when none was."""

    def factor(self) -> Tensor:
        """Return the lower Cholesky factor ``L (d, d)`` in float64."""

    def add_to(self, matrix: Tensor) -> None:
        """Add the lower triangle of ``C``, jitter included, to a ``(d, d)`` matrix."""


@dataclass(frozen=True)
class HeldBlock:
    """A prior whose factor is simply held.

    Parameters
    ----------
    held : Tensor
        ``L (d, d)`` in float64.
    jitter : float
        See :class:`PriorBlock`.
    """

    held: Tensor
    jitter: float = 0.0

    @property
    def size(self) -> int:
        """Input width of the projection."""
        return int(self.held.shape[0])

    def factor(self) -> Tensor:
        """Return ``L``."""
        return self.held

    def add_to(self, matrix: Tensor) -> None:
        """Add the lower triangle of ``L L^T``."""
        for start, stop in strips(self.size):
            left, right = self.held[start:, :stop], self.held[start:stop, :stop]
            matrix[start:, start:stop].addmm_(left, right.T)


class Prior:
    """What the edited projections already store: ``C`` of a group, by its Cholesky factors.

    Parameters
    ----------
    blocks : Sequence[Tensor]
        Lower Cholesky factors ``L (d, d)`` in float64, one per projection of the group.
    jitters : Sequence[float]
        Multiple of the mean diagonal that had to be added to each block; 0 when none was.
    """

    def __init__(self, blocks: Sequence[Tensor], jitters: Sequence[float]) -> None:
        self.members: tuple[PriorBlock, ...] = tuple(
            HeldBlock(block, jitter) for block, jitter in zip(blocks, jitters, strict=True)
        )

    @classmethod
    def of(cls, members: Iterable[PriorBlock]) -> Prior:
        """Make the prior of a group whose factors are held elsewhere; each is asked for in turn."""
        prior = cls((), ())
        prior.members = tuple(members)
        return prior

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
    def blocks(self) -> tuple[Tensor, ...]:
        """All factors at once."""
        return tuple(member.factor() for member in self.members)

    @property
    def jitters(self) -> tuple[float, ...]:
        """Jitter of every block."""
        return tuple(member.jitter for member in self.members)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Input width of every projection of the group."""
        return tuple(member.size for member in self.members)

    @property
    def d_in(self) -> int:
        """Width of the stacked keys."""
        return sum(self.sizes)

    def whiten(self, keys: Tensor) -> Tensor:
        """Return ``L^-1 U`` for stacked ``U (d_in, r)``."""
        return torch.cat([_forward(factor, rows) for factor, rows in self._cut(keys)])

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return ``L^-T Y`` for stacked ``Y (d_in, r)``."""
        return torch.cat([_backward(factor, rows) for factor, rows in self._cut(whitened)])

    def leverage(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``U^T C^-1 U (r, r)`` and ``C^-1 U (d_in, r)``, with one use of every factor."""
        gram = torch.zeros(keys.shape[1], keys.shape[1], dtype=torch.float64)
        solved = []
        for factor, rows in self._cut(keys):
            whitened = _forward(factor, rows)
            gram.addmm_(whitened.T, whitened)
            solved.append(_backward(factor, whitened))
        return gram, torch.cat(solved)

    def add_to(self, matrix: Tensor) -> None:
        """Add the lower triangle of ``C`` to ``(d_in, d_in)``, block diagonal over the group."""
        start = 0
        for member in self.members:
            stop = start + member.size
            member.add_to(matrix[start:stop, start:stop])
            start = stop

    def matrix(self) -> Tensor:
        """Return ``C``, block diagonal over the group."""
        matrix = torch.zeros(self.d_in, self.d_in, dtype=torch.float64)
        self.add_to(matrix)
        return matrix.tril_() + matrix.tril(-1).T

    def _cut(self, stacked: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        pieces = torch.split(stacked.to(torch.float64), list(self.sizes))
        for member, rows in zip(self.members, pieces, strict=True):
            yield member.factor(), rows


def _forward(factor: Tensor, columns: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve_triangular(factor, columns, upper=False)
    return solved


def _backward(factor: Tensor, columns: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve_triangular(factor.T, columns, upper=True)
    return solved


def stack(priors: Iterable[Prior]) -> Prior:
    """Join the priors of several projections into the prior of their group."""
    return Prior.of(member for prior in priors for member in prior.members)

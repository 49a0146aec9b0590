"""What edited projections already store: the prior ``C``, by what its inverse does to keys.

Letters: ``C (d_in, d_in)`` the prior, block diagonal when several projections are solved together;
``W (k, d_in)`` its whitening, ``C^-1 = W^T W``; ``L (d, d)`` the lower Cholesky factor of one
block, whose ``W`` is ``L^-1``; ``Q (d, k)`` an orthonormal basis; ``U (d_in, r)`` stacked keys.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fleke_flwr.errors import StatisticsError
from fleke_flwr.factoring import cholesky, strips


class PriorBlock(Protocol):
    """The prior of one projection; where what it is made of is kept is its own affair."""

    @property
    def size(self) -> int:
        """Input width ``d`` of the projection."""

    @property
    def rank(self) -> int:
        """Number ``k`` of directions in which the projection may change at all."""

    @property
    def finite(self) -> bool:
        """Whether ``C`` is a matrix; that of a subspace is infinite outside of it."""

    @property
    def jitter(self) -> float:
        """Multiple of the mean diagonal that had to be added; 0 when none was."""

    def factor(self) -> Tensor:
        """Return the lower Cholesky factor ``L (d, d)`` in float64.

        Raises
        ------
        StatisticsError
            If ``C`` is not finite.
        """

    def add_to(self, matrix: Tensor) -> None:
        """Add the lower triangle of ``C``, jitter included, to a ``(d, d)`` matrix.

        Raises
        ------
        StatisticsError
            If ``C`` is not finite.
        """

    def whiten(self, keys: Tensor) -> Tensor:
        """Return ``W U (k, r)`` for ``U (d, r)``."""

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return ``W^T Y (d, r)`` for ``Y (k, r)``."""

    def whiten_and_solve(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``W U`` and ``C^-1 U``, with one use of what the block is made of."""

    def signature(self) -> Tensor:
        """Return a vector in float64 by which this prior is told from others."""


class TriangularBlock(ABC):
    """A prior that is a matrix, used by its Cholesky factor."""

    finite: ClassVar[bool] = True

    @property
    @abstractmethod
    def size(self) -> int:
        """Input width of the projection."""

    @abstractmethod
    def factor(self) -> Tensor:
        """Return ``L (d, d)`` in float64."""

    @property
    def rank(self) -> int:
        """Every direction may change."""
        return self.size

    def whiten(self, keys: Tensor) -> Tensor:
        """Return ``L^-1 U``."""
        return _forward(self.factor(), keys)

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return ``L^-T Y``."""
        return _backward(self.factor(), whitened)

    def whiten_and_solve(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``L^-1 U`` and ``L^-T L^-1 U``."""
        factor = self.factor()
        whitened = _forward(factor, keys)
        return whitened, _backward(factor, whitened)

    def signature(self) -> Tensor:
        """Return the diagonal of ``L``."""
        return self.factor().diagonal()


@dataclass(frozen=True)
class HeldBlock(TriangularBlock):
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


@dataclass(frozen=True)
class ScaledIdentity(TriangularBlock):
    """The prior ``a I``, of which nothing is held.

    Parameters
    ----------
    width : int
        ``d``.
    weight : float
        ``a``, above 0.
    """

    width: int
    weight: float
    jitter: ClassVar[float] = 0.0

    @property
    def size(self) -> int:
        """Input width of the projection."""
        return self.width

    def factor(self) -> Tensor:
        """Return ``sqrt(a) I``, written out."""
        return torch.diag(self.signature())

    def add_to(self, matrix: Tensor) -> None:
        """Add ``a`` to the diagonal."""
        matrix.diagonal().add_(self.weight)

    def whiten(self, keys: Tensor) -> Tensor:
        """Return ``U / sqrt(a)``."""
        return keys / math.sqrt(self.weight)

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return ``Y / sqrt(a)``."""
        return whitened / math.sqrt(self.weight)

    def whiten_and_solve(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``U / sqrt(a)`` and ``U / a``."""
        return self.whiten(keys), keys / self.weight

    def signature(self) -> Tensor:
        """Return the diagonal of ``sqrt(a) I``."""
        return torch.full((self.width,), math.sqrt(self.weight), dtype=torch.float64)


class Subspace(ABC):
    """A prior that lets a projection change inside a subspace only, with one weight ``a`` there.

    ``C^-1 = Q Q^T / a``, so ``W = Q^T / sqrt(a)``. ``C`` would be infinite outside of the subspace
    and is nowhere written down: solutions are found in the ``k`` coordinates inside.
    """

    finite: ClassVar[bool] = False
    jitter: ClassVar[float] = 0.0
    weight: float

    @property
    @abstractmethod
    def size(self) -> int:
        """Input width of the projection."""

    @abstractmethod
    def directions(self) -> Tensor:
        """Return ``Q (d, k)`` in float64, with orthonormal columns."""

    def factor(self) -> Tensor:
        """Refuse."""
        raise StatisticsError(_INFINITE)

    def add_to(self, matrix: Tensor) -> None:
        """Refuse."""
        raise StatisticsError(_INFINITE)

    def whiten(self, keys: Tensor) -> Tensor:
        """Return ``Q^T U / sqrt(a)``."""
        return (self.directions().T @ keys).div_(math.sqrt(self.weight))

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return ``Q Y / sqrt(a)``."""
        return (self.directions() @ whitened).div_(math.sqrt(self.weight))

    def whiten_and_solve(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``Q^T U / sqrt(a)`` and ``Q Q^T U / a``."""
        directions, root = self.directions(), math.sqrt(self.weight)
        whitened = (directions.T @ keys).div_(root)
        return whitened, (directions @ whitened).div_(root)

    def signature(self) -> Tensor:
        """Return the diagonal of ``Q Q^T / a``, which does not depend on the basis."""
        return self.directions().square().sum(dim=1).div_(self.weight)


_INFINITE = (
    "this prior lets the projection change inside a subspace only: it has neither a matrix nor a "
    "Cholesky factor; use whiten, unwhiten and leverage"
)


@dataclass(frozen=True)
class SubspaceBlock(Subspace):
    """A subspace whose basis is simply held.

    Parameters
    ----------
    basis : Tensor
        ``Q (d, k)`` in float64, with orthonormal columns.
    weight : float
        ``a``, what a change inside the subspace costs.
    """

    basis: Tensor
    weight: float

    @property
    def size(self) -> int:
        """Input width of the projection."""
        return int(self.basis.shape[0])

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        return int(self.basis.shape[1])

    def directions(self) -> Tensor:
        """Return ``Q``."""
        return self.basis


class Prior:
    """What the edited projections already store: ``C`` of a group, block by block.

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
        """All Cholesky factors at once; refused where one is a subspace."""
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

    @property
    def rank(self) -> int:
        """Number of directions in which the group may change; ``d_in`` unless one is a subspace."""
        return sum(member.rank for member in self.members)

    @property
    def finite(self) -> bool:
        """Whether ``C`` is a matrix, that is no block a subspace."""
        return all(member.finite for member in self.members)

    def whiten(self, keys: Tensor) -> Tensor:
        """Return ``W U (rank, r)`` for stacked ``U (d_in, r)``."""
        pieces = self._cut(keys, self.sizes)
        return torch.cat([member.whiten(rows) for member, rows in pieces])

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Return ``W^T Y (d_in, r)`` for stacked ``Y (rank, r)``."""
        pieces = self._cut(whitened, [member.rank for member in self.members])
        return torch.cat([member.unwhiten(rows) for member, rows in pieces])

    def leverage(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``U^T C^-1 U (r, r)`` and ``C^-1 U (d_in, r)``, with one use of every block."""
        gram = torch.zeros(keys.shape[1], keys.shape[1], dtype=torch.float64)
        solved = []
        for member, rows in self._cut(keys, self.sizes):
            whitened, back = member.whiten_and_solve(rows)
            gram.addmm_(whitened.T, whitened)
            solved.append(back)
        return gram, torch.cat(solved)

    def add_to(self, matrix: Tensor) -> None:
        """Add the lower triangle of ``C`` to ``(d_in, d_in)``, block diagonal over the group.

        Raises
        ------
        StatisticsError
            If a block is a subspace.
        """
        start = 0
        for member in self.members:
            stop = start + member.size
            member.add_to(matrix[start:stop, start:stop])
            start = stop

    def matrix(self) -> Tensor:
        """Return ``C``, block diagonal over the group; refused where a block is a subspace."""
        matrix = torch.zeros(self.d_in, self.d_in, dtype=torch.float64)
        self.add_to(matrix)
        return matrix.tril_() + matrix.tril(-1).T

    def _cut(self, stacked: Tensor, sizes: Sequence[int]) -> Iterator[tuple[PriorBlock, Tensor]]:
        pieces = torch.split(stacked.to(torch.float64), list(sizes))
        return zip(self.members, pieces, strict=True)


def _forward(factor: Tensor, columns: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve_triangular(factor, columns, upper=False)
    return solved


def _backward(factor: Tensor, columns: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve_triangular(factor.T, columns, upper=True)
    return solved


def stack(priors: Iterable[Prior]) -> Prior:
    """Join the priors of several projections into the prior of their group."""
    return Prior.of(member for prior in priors for member in prior.members)

"""Second moments that lie on disk, and priors whose factors are made when they are needed.

Letters: ``f`` input width of a projection, ``C = lambda E[k k^T] (f, f)``, ``L`` its lower Cholesky
factor; ``Q (f, k)`` eigenvectors of ``E[k k^T]``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.errors import DataError, StatisticsError
from fleke_flwr.factoring import factored, strips
from fleke_flwr.prior import Subspace, TriangularBlock

# Small models keep every factor, GPT-2 XL, where one takes 328 MB, none.
_BUDGET_BYTES = 256 * 2**20


class StoredMoments(Mapping[str, Tensor]):
    """Second moments ``(f, f)`` by module, read from disk whenever one is asked for.

    Parameters
    ----------
    fingerprint : str
        Of the model they belong to.
    paths : Mapping[str, Path]
        Their files, by module.
    """

    def __init__(self, fingerprint: str, paths: Mapping[str, Path]) -> None:
        self._fingerprint = fingerprint
        self._paths = dict(paths)

    def __getitem__(self, module: str) -> Tensor:
        """Read one moment."""
        return load_moment(self._paths[module], self._fingerprint, module)

    def __iter__(self) -> Iterator[str]:
        """Go through the modules."""
        return iter(self._paths)

    def __len__(self) -> int:
        """Return the number of modules."""
        return len(self._paths)

    def spectrum(self, module: str) -> Spectrum:
        """Read the eigenvectors of one moment; found once and kept in a file beside it."""
        moment = self._paths[module]
        path = moment.with_name(f"{moment.stem}-spectrum.safetensors")
        owner = {"fingerprint": self._fingerprint, "module": module}
        if not path.is_file():
            found = _decomposed(self[module])
            write_tensors(path, {"values": found.values, "vectors": found.vectors}, owner)
        tensors, metadata = read_tensors(path)
        if metadata != owner or set(tensors) != {"values", "vectors"}:
            raise StatisticsError(
                f"{path}: eigenvectors of module {metadata.get('module')} of model "
                f"{metadata.get('fingerprint')}, but module {module} of model "
                f"{self._fingerprint} is needed; delete the file or use another cache-dir"
            )
        return Spectrum(tensors["values"], tensors["vectors"])


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of a second moment.

    Parameters
    ----------
    values : Tensor
        ``(f,)``, ascending.
    vectors : Tensor
        ``(f, f)``, the eigenvector of each value as a row.
    """

    values: Tensor
    vectors: Tensor


def spectrum(moments: Mapping[str, Tensor], module: str) -> Spectrum:
    """Return the spectrum of one module's moment, from disk where the moment lies there.

    Decomposing takes about ``9 f^3`` operations, and four matrices of memory beside the moment.
    """
    if isinstance(moments, StoredMoments):
        return moments.spectrum(module)
    return _decomposed(moments[module])


def _decomposed(moment: Tensor) -> Spectrum:
    wide = moment.to(torch.float64)
    values, vectors = torch.linalg.eigh((wide + wide.T) / 2)
    return Spectrum(values, vectors.T)


def load_moment(path: Path, fingerprint: str, module: str) -> Tensor:
    """Read one cached moment ``(f, f)``; its pages come from the disk as they are touched.

    Raises
    ------
    StatisticsError
        If it belongs to another model or another projection.
    DataError
        If the file is missing or damaged.
    """
    try:
        tensors, metadata = read_tensors(path)
    except DataError as error:
        raise DataError(f"{error}; fleke covariance makes it beforehand") from error
    found = (metadata.get("fingerprint"), metadata.get("module"))
    if found != (fingerprint, module) or "moment" not in tensors:
        raise StatisticsError(
            f"{path}: covariance of module {found[1]} of model {found[0]}, but module {module} "
            f"of model {fingerprint} is needed; delete the file or use another cache-dir"
        )
    return tensors["moment"]


class FactorCache:
    """Factors and bases within a budget of memory; those not used for longest are let go.

    Room is made before a factor is, so that the budget holds while it is being made. A factor
    larger than the whole budget is made whenever it is asked for.

    Parameters
    ----------
    budget : int
        Bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, size: int, make: Callable[[], Tensor]) -> Tensor:
        """Return the factor of a key, ``(size, size)`` at most, made if it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        wanted = 8 * size * size
        while self._kept and self.held + wanted > self.budget:
            self._kept.popitem(last=False)
        factor = make()
        if wanted <= self.budget:
            self._kept[key] = factor
        return factor

    @property
    def held(self) -> int:
        """Bytes of all factors that are kept."""
        return sum(factor.nbytes for factor in self._kept.values())


_FACTORS = FactorCache(_BUDGET_BYTES)


class MomentBlock(TriangularBlock):
    """The prior ``C`` of one projection: factored when that is needed, otherwise read.

    Parameters
    ----------
    moments : Mapping[str, Tensor]
        Where the second moment is read from.
    module : str
        Name of the projection.
    ridge_weight : float
        ``lambda``.
    cache : FactorCache
        Keeps the factor if it fits; that of the process unless another is given.
    """

    def __init__(
        self,
        moments: Mapping[str, Tensor],
        module: str,
        ridge_weight: float,
        cache: FactorCache = _FACTORS,
    ) -> None:
        self._size = len(moments[module])
        self._moments = moments
        self._module = module
        self._ridge_weight = ridge_weight
        self._cache = cache
        self._jitter: float | None = None

    @property
    def size(self) -> int:
        """Input width of the projection."""
        return self._size

    @property
    def jitter(self) -> float:
        """Multiple of the mean diagonal that had to be added; known once ``C`` was factored."""
        if self._jitter is None:
            self.factor()
        assert self._jitter is not None  # factoring notes it
        return self._jitter

    def factor(self) -> Tensor:
        """Return ``L (f, f)``.

        Raises
        ------
        StatisticsError
            If the moment cannot be factored.
        """
        return self._cache.get(self, self.size, self._make)

    def add_to(self, matrix: Tensor) -> None:
        """Add the lower triangle of ``C``, as factored, to ``(f, f)``: no factor is held for it."""
        jitter = self.jitter
        self._add_moment(matrix)
        if jitter:
            scale = self._moments[self._module].diagonal().mean() * self._ridge_weight
            matrix.diagonal().add_(jitter * scale)

    def _make(self) -> Tensor:
        factor, self._jitter = factored(self.size, self._add_moment)
        return factor

    def _add_moment(self, matrix: Tensor) -> None:
        for start, stop in strips(self.size):
            # Asked for anew every time, so that what was read before is let go.
            rows = self._moments[self._module][start:stop, start:]
            matrix[start:, start:stop].add_(rows.T, alpha=self._ridge_weight)


class QuietBlock(Subspace):
    """A subspace of the directions in which ordinary keys are shortest, read when it is needed.

    Parameters
    ----------
    moments : Mapping[str, Tensor]
        Where the second moment, or its spectrum, is read from.
    module : str
        Name of the projection.
    rank : int
        Number ``k`` of directions: the eigenvectors of the ``k`` smallest eigenvalues.
    weight : float
        What a change inside the subspace costs.
    cache : FactorCache
        Keeps the basis if it fits; that of the process unless another is given.
    """

    def __init__(
        self,
        moments: Mapping[str, Tensor],
        module: str,
        rank: int,
        weight: float,
        cache: FactorCache = _FACTORS,
    ) -> None:
        self.weight = weight
        self._size = len(moments[module])
        self._rank = rank
        self._moments = moments
        self._module = module
        self._cache = cache

    @property
    def size(self) -> int:
        """Input width of the projection."""
        return self._size

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        return self._rank

    def directions(self) -> Tensor:
        """Return ``Q (f, k)``."""
        return self._cache.get(self, self._size, self._make)

    def _make(self) -> Tensor:
        return spectrum(self._moments, self._module).vectors[: self._rank].T

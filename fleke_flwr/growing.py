"""A ridge solution that grows: new edits cost what they cost, however many there are already.

Letters: ``K (d_in, n)`` keys, ``R (d_out, n)`` residuals, ``C`` the prior, ``Z = C^-1 K``,
``G = I + K^T C^-1 K`` and its lower Cholesky factor ``L (n, n)``; ``Delta = R G^-1 Z^T``, the dual
form of ``fleke_flwr.linalg``. A further column extends ``Z`` and ``L`` and changes nothing in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from fleke_flwr.errors import StatisticsError
from fleke_flwr.linalg import Prior, split_update, stack
from fleke_flwr.types import LayerUpdate


class GrowingSystem:
    """The keys of one group of projections, factored as they come.

    Parameters
    ----------
    prior : Prior
        Of the group.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self._unwhitened = torch.zeros(prior.d_in, 0, dtype=torch.float64)
        self._factor = torch.zeros(0, 0, dtype=torch.float64)

    def extend(self, keys: Tensor) -> None:
        """Add columns ``(d_in, m)``: a block step of the Cholesky factorisation.

        Raises
        ------
        StatisticsError
            If the prior is lost beside the keys.
        """
        keys = keys.to(torch.float64)
        _, fresh = self.prior.leverage(keys)
        below = torch.linalg.solve_triangular(self._factor, self._unwhitened.T @ keys, upper=False)
        corner = keys.T @ fresh - below.T @ below
        corner.diagonal().add_(1.0)
        size, more = len(self._factor), keys.shape[1]
        factor = torch.zeros(size + more, size + more, dtype=torch.float64)
        factor[:size, :size] = self._factor
        factor[size:, :size] = below.T
        factor[size:, size:], info = torch.linalg.cholesky_ex((corner + corner.T) / 2)
        if int(info) != 0:
            raise StatisticsError(
                "the keys of these edits drown the prior: what one more of them adds is lost in "
                "rounding; raise edit.ridge-weight"
            )
        self._factor = factor
        self._unwhitened = torch.cat([self._unwhitened, fresh], dim=1)

    def solve(self, residuals: Tensor) -> LayerUpdate:
        """Return the update for ``R (d_out, n)``; its left factor is what remains, ``R G^-1``."""
        left = torch.cholesky_solve(residuals.to(torch.float64).T, self._factor).T
        return LayerUpdate(left, self._unwhitened.T)


class GrowingSolution:
    """All edits of one model so far, solved from the base model in one of three ways.

    Parameters
    ----------
    priors : Sequence[Prior]
        One for each edited projection, in layer order.
    mode : str
        ``joint`` solves all layers at once, ``anticipated`` in turn, anything else each layer by
        itself for an equal part.
    """

    def __init__(self, priors: Sequence[Prior], mode: str) -> None:
        self._mode = mode
        self._priors = list(priors)
        self._sizes = [prior.d_in for prior in priors]
        joined = [stack(priors)] if mode == "joint" else list(priors)
        self._systems = [GrowingSystem(prior) for prior in joined]
        self._residuals: Tensor | None = None

    @cached_property
    def identity(self) -> str:
        """Hash of mode and priors: solutions of equal identity and edits are equal."""
        digest = hashlib.sha256(self._mode.encode())
        for prior in self._priors:
            for member in prior.members:
                digest.update(member.signature().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def count(self) -> int:
        """Number of edits."""
        return 0 if self._residuals is None else int(self._residuals.shape[1])

    def extend(self, keys: Sequence[Tensor], residuals: Tensor) -> None:
        """Add edits.

        Parameters
        ----------
        keys : Sequence[Tensor]
            ``(d_in, m)`` for each projection.
        residuals : Tensor
            ``(d_out, m)`` on the base model.
        """
        grouped = [torch.cat(list(keys))] if self._mode == "joint" else keys
        for system, columns in zip(self._systems, grouped, strict=True):
            system.extend(columns)
        residuals = residuals.to(torch.float64)
        known = self._residuals
        self._residuals = residuals if known is None else torch.cat([known, residuals], dim=1)

    def updates(self) -> list[LayerUpdate]:
        """Return the update of every projection, in float64."""
        assert self._residuals is not None  # nothing is solved before something is added
        if self._mode == "joint":
            return split_update(self._systems[0].solve(self._residuals), self._sizes)
        left, updates = self._residuals, []
        for index, system in enumerate(self._systems):
            layers = len(self._systems) - (index if self._mode == "anticipated" else 0)
            asked = left / layers
            update = system.solve(asked)
            updates.append(update)
            if self._mode == "anticipated":
                # Delta K = R G^-1 (G - I): what a layer writes is what it was asked minus the rest.
                left = left - (asked - update.left)
        return updates

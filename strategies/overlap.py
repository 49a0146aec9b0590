"""How much the clients' key spaces have in common, as the server sees it from factors alone.

Letters: ``U (d_in, r)`` a client's factors of keys, ``L`` the Cholesky factor of the prior,
``Q (d_in, r)`` an orthonormal basis of the columns of ``L^-1 U``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fleke_flwr.linalg import stack
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.types import EditPayload, group_modules


class KeySpaces:
    """Bases of the clients' key spaces, in the order in which contributions come in.

    Whitened by the prior, since all keys of a model have large parts in common that mean nothing.
    Two edits of one subject behind one prompt have the same key, whatever they answer.

    Parameters
    ----------
    plan : Plan
        Says whether anybody wants to know, and how contributions travel.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._wanted = plan.watches_overlap and plan.encoding == "factors"
        self.bases: dict[int, Tensor] = {}

    def clear(self) -> None:
        """Forget the last round's."""
        self.bases.clear()

    def add(self, partition: int, payload: EditPayload) -> None:
        """Keep the basis of one contribution: of its first group, which stands for the others."""
        if not self._wanted:
            return
        group, statistics = next(iter(payload.statistics.items()))
        prior = stack(self._plan.priors[module] for module in group_modules(group))
        keys, _ = statistics.factors()
        basis, _ = torch.linalg.qr(prior.whiten(keys))
        self.bases[partition] = basis

    def shared(self) -> list[list[float | None]] | None:
        """Return, for clients ``i`` and ``j``, which part of ``i``'s key space lies in ``j``'s.

        The mean of the squared cosines of the principal angles, ``|Q_i^T Q_j|^2 / r_i``, from 0 to
        1; ``None`` for a client without edits. ``None`` altogether if nothing was watched.
        """
        if not self.bases:
            return None
        bases = [self.bases[partition] for partition in sorted(self.bases)]
        return [[_part(first, second) for second in bases] for first in bases]


def _part(first: Tensor, second: Tensor) -> float | None:
    rank = first.shape[1]
    if rank == 0:
        return None
    return float((first.T @ second).square().sum() / rank)

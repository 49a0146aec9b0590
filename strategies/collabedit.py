"""CollabEdit: merge the sufficient statistics, solve once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

from fleke_flwr.linalg import solve_group
from fleke_flwr.state import EditState
from fleke_flwr.strategies.base import EditStrategy
from fleke_flwr.types import EditPayload, LayerUpdate, group_modules


class CollabEdit(EditStrategy):
    """Non-destructive merging: the result is the edit of all clients' requests pooled.

    Source: CollabEdit (arXiv 2410.09508), eq. 3 and 12, in the additive form
    ``Delta = (sum_i B_i)(C + sum_i S_i)^-1``. Exact for every mode but ``local_sequential``.
    Departs from the released code: no inverse, no client updates multiplied back into sums, any
    number of layers, clients and rounds.
    """

    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        """Add the statistics of every group and solve the pooled ridge problem."""
        updates: dict[str, LayerUpdate] = {}
        for group in payloads[0].statistics:
            modules = group_modules(group)
            total = reduce(add, (payload.statistics[group] for payload in payloads))
            priors = [self.plan.priors[module] for module in modules]
            solved = solve_group(total, priors, self.plan.spec.mode == "anticipated")
            updates.update(zip(modules, solved, strict=True))
        return updates

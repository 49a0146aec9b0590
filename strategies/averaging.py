"""Strategies that are weighted sums of the clients' own updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from fleke_flwr import wire
from fleke_flwr.state import EditState
from fleke_flwr.strategies.base import EditStrategy
from fleke_flwr.strategies.merging import weighted_sum
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.options import option
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.types import EditPayload, LayerUpdate


class WeightedSum(EditStrategy):
    """Base of the rules ``Delta = sum_i w_i Delta_i``: subclasses give the weights."""

    reply = wire.UPDATES

    @abstractmethod
    def weights(self, payloads: Sequence[EditPayload]) -> list[float]:
        """Return one weight per client."""

    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        """Add the clients' updates with their weights."""
        weights = self.weights(payloads)
        return {
            module: weighted_sum([payload.updates[module] for payload in payloads], weights)
            for module in payloads[0].updates
        }


class SimpleAverage(WeightedSum):
    """Unweighted mean of the clients' updates.

    Source: CollabEdit's baseline. Departs from the released code, which divides by a literal 10.
    """

    def weights(self, payloads: Sequence[EditPayload]) -> list[float]:
        """Return ``1/N`` for everybody."""
        return [1 / len(payloads)] * len(payloads)


class EditAvg(WeightedSum):
    """Mean of the clients' updates weighted by their share of the edits.

    Source: FedLEKE, appendix B. Departs from the released code, which averages the factors of the
    updates instead of the updates.
    """

    def weights(self, payloads: Sequence[EditPayload]) -> list[float]:
        """Return every client's share of the edits; equal shares when nobody has edits."""
        total = sum(payload.num_edits for payload in payloads)
        if total == 0:
            return [1 / len(payloads)] * len(payloads)
        return [payload.num_edits / total for payload in payloads]


class TaskArithmetic(WeightedSum):
    """Scaled sum of the clients' updates.

    Source: CollabEdit's baseline after Ilharco et al. 2023, with factor 1 by default.

    Parameters
    ----------
    plan, nodes
        See :class:`EditStrategy`.
    scale : float
        Factor on the sum.
    """

    def __init__(
        self, plan: Plan, nodes: Sequence[Node] | None = None, scale: float = -1.0
    ) -> None:
        super().__init__(plan, nodes)
        self.scale = option("merge.scale", scale, default=1.0, low=0.0, high=10.0)

    def weights(self, payloads: Sequence[EditPayload]) -> list[float]:
        """Return the factor for everybody."""
        return [self.scale] * len(payloads)

"""TIES: trim, elect signs, average what agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleke_flwr import wire
from fleke_flwr.state import EditState
from fleke_flwr.strategies.base import EditStrategy
from fleke_flwr.strategies.merging import ties
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.options import option
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.types import EditPayload, LayerUpdate


class Ties(EditStrategy):
    """TIES-Merging of the clients' updates, weight matrix by weight matrix.

    Parameters
    ----------
    plan, nodes
        See :class:`EditStrategy`.
    density : float
        Share of entries kept per client; 0.2 in CollabEdit's experiments.
    scale : float
        Factor on the merged update; 0.4 in CollabEdit's experiments.
    """

    reply = wire.UPDATES

    def __init__(
        self,
        plan: Plan,
        nodes: Sequence[Node] | None = None,
        density: float = -1.0,
        scale: float = -1.0,
    ) -> None:
        super().__init__(plan, nodes)
        self.density = option("merge.density", density, default=0.2, low=0.0, high=1.0)
        self.scale = option("merge.scale", scale, default=0.4, low=0.0, high=10.0)

    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        """Merge every module's updates; the result is dense."""
        return {
            module: LayerUpdate(
                ties(
                    [payload.updates[module].dense() for payload in payloads],
                    self.density,
                    self.scale,
                )
            )
            for module in payloads[0].updates
        }

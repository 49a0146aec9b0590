"""GLOBAL-EDIT: the bound, which needs everybody's requests in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleke_flwr import wire
from fleke_flwr.state import EditState
from fleke_flwr.strategies.base import EditStrategy
from fleke_flwr.strategies.federated import log
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.types import EditPayload, LayerUpdate


class GlobalEdit(EditStrategy):
    """Edit the union of all requests on one model: what federation is measured against.

    One simulated client reads the records of all partitions, so this exists in simulation only and
    is no federated method. It runs in the same mode as the strategy it bounds.
    """

    reply = wire.UPDATES
    pooled = True

    @property
    def exchanges(self) -> int:
        """One message: the pooling client walks through the layers by itself."""
        return 1

    def select(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Let the first client do the pooled edit."""
        return nodes[:1]

    def summary(self) -> None:
        """Log what will be done, and that it pools."""
        super().summary()
        log.info("\t└──> GLOBAL pools the requests of all clients on one: simulation only")

    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        """Take the pooled update as it is."""
        return payloads[0].updates

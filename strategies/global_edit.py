"""GLOBAL-EDIT: the bound, which needs everybody's requests in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fleke_flwr.strategies.collabedit import CollabEdit
from fleke_flwr.strategies.federated import log
from fleke_flwr.strategies.nodes import Node


class GlobalEdit(CollabEdit):
    """Edit the union of all requests on one model: what federation is measured against.

    One simulated client reads the records of all partitions and everything else is as in
    CollabEdit, so this exists in simulation only and is no federated method. It runs in the same
    mode, with the same memory and sweeps, as the strategy it bounds.
    """

    pooled: ClassVar[bool] = True

    def select(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Let the first client do the pooled edit."""
        return nodes[:1]

    def summary(self) -> None:
        """Log what will be done, and that it pools."""
        super().summary()
        log.info("\t└──> GLOBAL pools the requests of all clients on one: simulation only")

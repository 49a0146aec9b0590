"""GLOBAL-EDIT: the bound, which needs everybody's requests in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from fleke_flwr import wire
from fleke_flwr.strategies.collabedit import CollabEdit
from fleke_flwr.strategies.federated import log
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.types import EditPayload, LayerUpdate, add_updates


class GlobalEdit(CollabEdit):
    """Edit the union of all requests on one model: what federation is measured against.

    One simulated client reads the records of all partitions and everything else is as in
    CollabEdit, so this exists in simulation only and is no federated method. It runs in the same
    mode, with the same memory and sweeps, as the strategy it bounds. An editor that gives updates
    alone makes one for all requests.
    """

    pooled: ClassVar[bool] = True

    def __init__(self, plan: Plan, nodes: Sequence[Node] | None = None) -> None:
        super().__init__(plan, nodes)
        self._solves_here = plan.adds_up
        if not self._solves_here:
            # One for this run: the class speaks of editors whose statistics add up.
            self.reply = wire.UPDATES  # type: ignore[misc]

    def gather(self, payloads: Iterator[EditPayload]) -> Sequence[EditPayload]:
        """Add statistics up; an update stays what it is."""
        return super().gather(payloads) if self._solves_here else list(payloads)

    def next_updates(self, payloads: Sequence[EditPayload]) -> Mapping[str, LayerUpdate]:
        """Solve, or add the one update."""
        if self._solves_here:
            return super().next_updates(payloads)
        return add_updates(self.state.updates, self.narrowed(payloads[0].updates))

    def select(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Let the first client do the pooled edit."""
        return nodes[:1]

    def summary(self) -> None:
        """Log what will be done, and that it pools."""
        super().summary()
        log.info("\t└──> GLOBAL pools the requests of all clients on one: simulation only")

"""What a client computes for one exchange: target vectors, then statistics or an update."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import ConfigRecord, RecordDict

from fleke_flwr import wire
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.session import Session
from fleke_flwr.data.slots import slot
from fleke_flwr.editors.base import EDITORS, Editor, Targets
from fleke_flwr.editors.cache import targets_cached
from fleke_flwr.editors.modes import exchange_statistics, exchange_update, pooled
from fleke_flwr.errors import RunError
from fleke_flwr.linalg import Prior
from fleke_flwr.modes import exchanges_per_round
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState
from fleke_flwr.types import EditPayload, EditRequest
from fleke_flwr.wire import TrainOrder

_TARGETS = "targets"
_TARGETS_KEY = "targets-key"


@dataclass
class Contribution:
    """A client's answer to one order, with what it cost.

    Parameters
    ----------
    session : Session
        The client.
    order : TrainOrder
        What is asked.
    state : EditState
        The shared state it refers to.
    memory : RecordDict
        The node's Flower state, which survives between the exchanges of a round.
    """

    session: Session
    order: TrainOrder
    state: EditState
    memory: RecordDict
    costs: dict[str, int | float] = field(default_factory=dict)

    def payload(self) -> EditPayload:
        """Compute the contribution; the model is as before afterwards."""
        requests = self.requests()
        editor = EDITORS.get(self.order.spec.editor)(self.order.spec)
        priors = self._priors()
        with self.state.applied(self.session.model.model):
            started = time.perf_counter()
            targets = self._targets(editor, requests)
            self.costs["seconds-targets"] = time.perf_counter() - started
            started = time.perf_counter()
            payload = self._solve(editor, requests, targets, priors)
            self.costs["seconds-statistics"] = time.perf_counter() - started
        return payload

    def requests(self) -> list[EditRequest]:
        """Return the requests of this round: this client's, or everybody's when pooling."""
        order = self.order
        if order.pooled:
            cases = self.session.pooled_cases(order.rounds, order.round)
        else:
            cases = slot(self.session.cases(), order.rounds, order.round)
        return [case.request for case in cases]

    def _priors(self) -> Mapping[str, Prior]:
        """Return the priors where the client solves for itself; sums need none."""
        if self.order.reply == wire.STATISTICS and self.order.spec.mode != "local_sequential":
            return {}
        session = self.session
        return known_priors(session.config, session.model, self.order.spec, Silent())

    def _targets(self, editor: Editor, requests: Sequence[EditRequest]) -> Targets:
        """Optimise at the first exchange of a round, recall at the later ones."""
        order = self.order
        if order.exchange > 0:
            return self._recall()
        found = targets_cached(
            editor, self.session.model, order.round_state, requests, self.session.progress()
        )
        targets = found.targets
        self.costs.update(optimized=found.optimized, reused=found.reused)
        if exchanges_per_round(order.spec.mode, len(order.spec.layers)) > 1 and not order.pooled:
            self._remember(targets)
        return targets

    def _remember(self, targets: Targets) -> None:
        # The next exchange may be answered by another process, so a module global would not do.
        tensors = {
            "vectors": targets.vectors,
            "initial": targets.initial,
            "losses": targets.losses,
            "steps": targets.steps,
        }
        self.memory[_TARGETS] = wire.pack_tensors(tensors)
        self.memory[_TARGETS_KEY] = ConfigRecord({"round-state": self.order.round_state})

    def _recall(self) -> Targets:
        key = self.memory.config_records.get(_TARGETS_KEY)
        if key is None or key["round-state"] != self.order.round_state:
            raise RunError(
                "this node no longer has the target vectors of the running round: "
                "it was restarted in between; it can take part again in the next round"
            )
        return Targets(**wire.unpack_tensors(self.memory.array_records[_TARGETS]))

    def _solve(
        self,
        editor: Editor,
        requests: Sequence[EditRequest],
        targets: Targets,
        priors: Mapping[str, Prior],
    ) -> EditPayload:
        order, model = self.order, self.session.model
        empty = EditPayload(
            base=model.fingerprint,
            state=self.state.fingerprint,
            editor=order.spec.editor,
            mode=order.spec.mode,
            num_edits=len(requests),
        )
        if order.pooled:
            return replace(empty, updates=pooled(editor, model, requests, targets, priors))
        if order.reply == wire.UPDATES:
            updates = exchange_update(editor, model, requests, targets, order.exchange, priors)
            return replace(empty, updates=updates)
        statistics = exchange_statistics(editor, model, requests, targets, order.exchange, priors)
        return replace(empty, statistics=statistics)

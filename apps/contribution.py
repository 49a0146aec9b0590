"""What a client computes for one exchange: target vectors, then statistics or an update."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import ConfigRecord, RecordDict

from fleke_flwr import wire
from fleke_flwr.apps.known_edits import remaining
from fleke_flwr.apps.ledger import Ledger
from fleke_flwr.apps.networks import with_own_network
from fleke_flwr.apps.node_memory import TARGETS, TARGETS_KEY
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.requests import RoundRequests
from fleke_flwr.apps.session import Session
from fleke_flwr.editors.base import EDITORS, EditMethod, Editor, StatisticsEditor, Targets
from fleke_flwr.editors.cache import recall_targets, save_targets, target_keys, targets_cached
from fleke_flwr.editors.direct import direct_updates, located
from fleke_flwr.editors.modes import exchange_statistics, exchange_update
from fleke_flwr.errors import RunError
from fleke_flwr.linalg import Prior
from fleke_flwr.modes import exchanges_per_round
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState
from fleke_flwr.types import EditPayload, EditRequest
from fleke_flwr.wire import TrainOrder


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
        The shared state that came with it.
    memory : RecordDict
        The node's Flower state, which survives between the exchanges of a round.
    """

    session: Session
    order: TrainOrder
    state: EditState
    memory: RecordDict
    costs: dict[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Prepare what every answer needs."""
        session, model = self.session, self.session.model
        spec = with_own_network(self.order.spec, session.config, model, session.network)
        self.order = order = replace(self.order, spec=spec)
        self.editor: EditMethod = EDITORS.get(order.spec.editor)(order.spec)
        self.editor.check(model)
        self.reading = EditState(model.fingerprint) if order.on_base else self.state
        self.asked = RoundRequests(self.session, order, Ledger.load(self.memory, order.variant))

    def payload(self) -> EditPayload:
        """Compute the contribution; the model is as before afterwards."""
        self._recall_kept()
        requests = self._wanted()
        priors = self._priors()
        with self.reading.applied(self.session.model.model):
            if isinstance(self.editor, Editor):
                return self._located(self.editor, requests, priors)
            return self._direct(requests, priors)

    def _located(
        self, editor: Editor, requests: Sequence[EditRequest], priors: Mapping[str, Prior]
    ) -> EditPayload:
        started = time.perf_counter()
        targets = self._targets(editor, requests)
        self.costs["seconds-targets"] = time.perf_counter() - started
        started = time.perf_counter()
        payload = self._solve(editor, requests, targets, priors)
        self.costs["seconds-statistics"] = time.perf_counter() - started
        return payload

    def _direct(self, requests: Sequence[EditRequest], priors: Mapping[str, Prior]) -> EditPayload:
        """Answer with an editor that has no target vectors."""
        started = time.perf_counter()
        model, progress = self.session.model, self.session.progress()
        payload = self._empty(len(requests))
        if isinstance(self.editor, StatisticsEditor) and self.order.reply == wire.STATISTICS:
            statistics = self.editor.statistics(model, requests, progress)
            payload = replace(payload, statistics=statistics)
        else:
            updates = direct_updates(self.editor, model, requests, priors, progress)
            payload = replace(payload, updates=updates)
        self.costs["seconds-statistics"] = time.perf_counter() - started
        self.costs["optimized"] = len(requests)
        return payload

    def _wanted(self) -> list[EditRequest]:
        """Return the requests that are contributed: those that the shared model lacks."""
        order = self.order
        requests = self.asked.requests()
        threshold = self.session.config.overlap.threshold
        if threshold < 0 or order.part != wire.ALL_EDITS:
            return requests
        is_first = order.sweep == 0 and order.exchange == 0
        if is_first:
            self._find_known(self.asked.fresh(), threshold)
        if self.session.config.overlap.action == "send":
            return requests
        known = set(self._known())
        if is_first:
            fresh = self._base_keys(self.asked.fresh())
            self.costs["count-skipped"] = sum(key in known for key in fresh)
        return [
            request
            for request, key in zip(requests, self._base_keys(requests), strict=True)
            if key not in known
        ]

    def _find_known(self, requests: Sequence[EditRequest], threshold: float) -> None:
        if not self.state.updates or not requests:
            return
        started = time.perf_counter()
        model = self.session.model
        editor = located(self.editor)
        found = targets_cached(
            editor,
            model,
            EditState(model.fingerprint).fingerprint,
            requests,
            self.session.progress(),
        )
        self.costs.update(optimized=found.optimized, reused=found.reused)
        priors = known_priors(self.session.config, model, self.order.spec, Silent())
        left = remaining(editor, model, self.state, requests, found.targets, priors)
        is_known = (left.residual < threshold).tolist()
        keys = [k for k, known in zip(self._base_keys(requests), is_known, strict=True) if known]
        self.memory[self._known_name] = ConfigRecord(
            {"keys": list(dict.fromkeys([*self._known(), *keys]))}
        )
        self.costs["count-known"] = sum(is_known)
        self.costs["count-looked-at"] = len(requests)
        self.costs["count-residual"] = float(left.residual.sum())
        self.costs["count-predicted-residual"] = float(left.predicted.sum())
        self.costs["seconds-overlap"] = time.perf_counter() - started

    @property
    def _known_name(self) -> str:
        return f"known {self.order.variant}"

    def _known(self) -> list[str]:
        found = self.memory.config_records.get(self._known_name)
        if found is None:
            return []
        keys = found["keys"]
        assert isinstance(keys, list)  # written by _find_known
        return [str(key) for key in keys]

    def _base_keys(self, requests: Sequence[EditRequest]) -> list[str]:
        base = EditState(self.session.model.fingerprint).fingerprint
        return target_keys(self.editor, self.session.model, base, requests)

    def _priors(self) -> Mapping[str, Prior]:
        """Return the priors where the client solves for itself; sums need none."""
        if self.order.reply == wire.STATISTICS and self.order.spec.mode != "local_sequential":
            return {}
        session = self.session
        return known_priors(session.config, session.model, self.order.spec, Silent())

    def _targets(self, editor: Editor, requests: Sequence[EditRequest]) -> Targets:
        """Optimise at the first exchange of a sweep, recall at the later ones."""
        order = self.order
        if order.exchange > 0:
            return self._recall()
        model = self.session.model
        found = targets_cached(editor, model, order.round_state, requests, self.session.progress())
        targets = found.targets
        for name, value in (("optimized", found.optimized), ("reused", found.reused)):
            self.costs[name] = self.costs.get(name, 0) + value
        path = self.session.kept_targets(self.order.pooled)
        if path is not None:
            save_targets(path, target_keys(editor, model, order.round_state, requests))
        if exchanges_per_round(order.spec.mode, len(order.spec.layers)) > 1:
            self._remember(targets)
        return targets

    def _recall_kept(self) -> None:
        """Know what another process of this client has optimised."""
        path = self.session.kept_targets(self.order.pooled)
        if self.order.exchange == 0 and path is not None and path.is_file():
            recall_targets(path)

    def _remember(self, targets: Targets) -> None:
        # The next exchange may be answered by another process, so a module global would not do.
        tensors = {
            "vectors": targets.vectors,
            "initial": targets.initial,
            "losses": targets.losses,
            "steps": targets.steps,
        }
        self.memory[TARGETS] = wire.pack_tensors(tensors)
        self.memory[TARGETS_KEY] = ConfigRecord({"round-state": self.order.round_state})

    def _recall(self) -> Targets:
        key = self.memory.config_records.get(TARGETS_KEY)
        if key is None or key["round-state"] != self.order.round_state:
            raise RunError(
                "this node no longer has the target vectors of the running round: "
                "it was restarted in between; it can take part again in the next round"
            )
        return Targets(**wire.unpack_tensors(self.memory.array_records[TARGETS]))

    def _solve(
        self,
        editor: Editor,
        requests: Sequence[EditRequest],
        targets: Targets,
        priors: Mapping[str, Prior],
    ) -> EditPayload:
        order, model = self.order, self.session.model
        empty, exchange = self._empty(len(requests)), order.exchange
        if order.reply == wire.UPDATES:
            updates = exchange_update(editor, model, requests, targets, exchange, priors)
            return replace(empty, updates=updates)
        return replace(
            empty,
            statistics=exchange_statistics(editor, model, requests, targets, exchange, priors),
        )

    def _empty(self, requests: int) -> EditPayload:
        spec = self.order.spec
        return EditPayload(
            base=self.session.model.fingerprint,
            state=self.state.fingerprint,
            editor=spec.editor,
            mode=spec.mode,
            num_edits=max(0, requests - self.asked.added),
        )

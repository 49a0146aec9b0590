"""What a client of FedEdit does: edit and share, then select and edit once more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from flwr.app import RecordDict
from torch import Tensor

from fleke_flwr.apps.personal import load_personal, rounded, save_personal
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.session import Session
from fleke_flwr.apps.solutions import fingerprint, grown
from fleke_flwr.config import FedEditConfig
from fleke_flwr.editors.base import EDITORS, Editor, Targets
from fleke_flwr.editors.cache import targets_cached
from fleke_flwr.editors.condition import own_quantile, passing, similarities
from fleke_flwr.editors.direct import located
from fleke_flwr.editors.modes import pooled, solve_groups
from fleke_flwr.editors.vectors import (
    known,
    memory_vectors,
    stacked_keys,
    vector_statistics,
)
from fleke_flwr.growing import GrowingSolution
from fleke_flwr.linalg import Prior
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState, applied
from fleke_flwr.types import EditRequest, LayerUpdate, MemoryVectors, add_updates
from fleke_flwr.wire import Received, SharedVectors, TrainOrder

# A received edit counts as known when less than this part of its residual is left.
_KNOWN_BELOW = 0.1


@dataclass
class Reedit:
    """A client's answer to the two messages of a slot, with what it cost.

    Parameters
    ----------
    session : Session
        The client.
    order : TrainOrder
        What is asked; its ``options`` are those of ``[fededit]``.
    memory : RecordDict
        The node's Flower state, in which the personal model is kept.
    """

    session: Session
    order: TrainOrder
    memory: RecordDict
    costs: dict[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Prepare what both messages need."""
        self.options = FedEditConfig(**self.order.options)  # type: ignore[arg-type]
        self.model = self.session.model
        self.editor: Editor = located(EDITORS.get(self.order.spec.editor)(self.order.spec))
        self.total = self.editor.total(len(self.order.spec.layers))
        self.modules = [self.model.module_name(layer) for layer in self.order.spec.layers]
        self.priors: Mapping[str, Prior] = known_priors(
            self.session.config, self.model, self.order.spec, Silent()
        )
        self.personal = load_personal(self.memory, self.order, self.model, self.editor)

    def share(self) -> SharedVectors:
        """Edit the records of this slot, and of slots that were missed; return their vectors."""
        personal, order = self.personal, self.order
        requests = self._requests(order.round)[self._done() :]
        started = time.perf_counter()
        found = targets_cached(
            self.editor,
            self.model,
            EditState(self.model.fingerprint).fingerprint,
            requests,
            self.session.progress(),
        )
        self.costs.update(optimized=found.optimized, reused=found.reused)
        self.costs["seconds-targets"] = time.perf_counter() - started
        self.costs["count-worth"] = found.worth
        started = time.perf_counter()
        fresh = rounded(memory_vectors(self.editor, self.model, requests, found.targets), order)
        if order.round > personal.slots:
            self._edit_own(fresh, requests, found.targets)
            save_personal(personal, self.memory, order, self.model.fingerprint)
        self.costs["seconds-statistics"] = time.perf_counter() - started
        return self._upload(fresh, requests)

    def take(self, offered: Received) -> None:
        """Select from what the others share and edit once more."""
        started = time.perf_counter()
        personal = self.personal
        offered = personal.unknown(offered)
        chosen = offered.rows(self._passing(offered.vectors))
        self.costs["count-received"] = len(offered)
        self.costs["count-selected"] = len(chosen)
        if self.options.exchange == "vectors":
            overlap = known(offered.vectors, personal.updates, _KNOWN_BELOW, self.total)
            self.costs["count-overlap"] = int(overlap.sum())
        if len(chosen):
            self._edit_more(chosen)
            save_personal(personal, self.memory, self.order, self.model.fingerprint)
        self.costs["seconds-reedit"] = time.perf_counter() - started

    def _done(self) -> int:
        """Return how many own records are edited; a slot that is asked for again starts over."""
        personal = self.personal
        return personal.latest if self.order.round <= personal.slots else len(personal.own)

    def _requests(self, slots: int) -> list[EditRequest]:
        return [case.request for case in self.session.seen(self.order.rounds, slots)]

    def _edit_own(
        self, fresh: MemoryVectors, requests: list[EditRequest], targets: Targets
    ) -> None:
        personal, before = self.personal, fingerprint(self.personal)
        protected = self._protected()
        personal.latest = len(personal.own)
        personal.own = personal.own + fresh
        personal.slots = self.order.round
        if self.options.rule == "pooled":
            self._solve_anew(before, fresh)
        elif requests:
            with applied(self.model.model, personal.updates):
                new = pooled(self.editor, self.model, requests, targets, self.priors, protected)
            personal.updates = self._plus(new)

    def _edit_more(self, chosen: Received) -> None:
        personal, before = self.personal, fingerprint(self.personal)
        if self.options.exchange == "tokens":
            chosen = self._with_keys(chosen)
        personal.received = personal.received + chosen
        if self.options.rule == "pooled":
            self._solve_anew(before, chosen.vectors)
            return
        protected = self._protected()
        if self.options.exchange == "tokens":
            with applied(self.model.model, personal.updates):
                new = pooled(self.editor, self.model, *_edits(chosen), self.priors, protected)
        else:
            new = self._solved(chosen.vectors, personal.updates, protected)
        personal.updates = self._plus(new)

    def _solve_anew(self, before: str, more: MemoryVectors) -> None:
        """Solve for everything own and received at once, from the base model."""
        personal, received = self.personal, self.personal.received
        if self.options.exchange == "tokens":
            requests, targets = _edits(received)
            own = self._requests(personal.slots)
            vectors = torch.cat([personal.own.targets, targets.vectors])
            new = pooled(self.editor, self.model, own + requests, _targets(vectors), self.priors)
        else:
            priors = [self.priors[module] for module in self.modules]
            blank = GrowingSolution(priors, self.order.spec.mode)
            client, step = self.session.partition, (before, more)
            solution = grown(client, blank, personal, self.modules, step, self.total)
            solved = solution.updates() if solution.count else []
            new = dict(zip(self.modules, solved, strict=False))
        personal.updates = self._kept(new)

    def _solved(
        self,
        vectors: MemoryVectors,
        updates: Mapping[str, LayerUpdate],
        protected: Mapping[str, Tensor],
    ) -> dict[str, LayerUpdate]:
        mode = self.order.spec.mode
        statistics = vector_statistics(vectors, updates, mode, self.modules, self.total)
        return solve_groups(statistics, self.priors, mode, protected)

    def _passing(self, offered: MemoryVectors) -> Tensor:
        options, mine = self.options, self.personal.compared
        alpha = options.alpha
        if options.quantile != -1:
            own = own_quantile(mine, options.similarity, options.quantile)
            alpha = alpha if own is None else own
        return passing(similarities(offered, mine, options.similarity), alpha)

    def _protected(self) -> dict[str, Tensor]:
        return stacked_keys(self.personal.own) if self.options.rule == "own_keys" else {}

    def _upload(self, fresh: MemoryVectors, requests: list[EditRequest]) -> SharedVectors:
        first = len(self.personal.own) - len(fresh)
        fresh = self._noisy(fresh)
        if self.options.exchange == "vectors":
            return SharedVectors(fresh, first)
        texts = tuple((item.prompt, item.subject, item.target) for item in requests)
        return SharedVectors(replace(fresh, keys={}), first, texts)

    def _noisy(self, vectors: MemoryVectors) -> MemoryVectors:
        """Add Gaussian noise of the asked relative length to every vector."""
        if not self.options.noise:
            return vectors
        generator = torch.Generator().manual_seed(
            1_000_003 * self.session.config.seed + 1009 * self.session.partition + self.order.round
        )

        def shaken(matrix: Tensor) -> Tensor:
            noise = torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
            size: Tensor = matrix.norm(dim=1, keepdim=True) / matrix.shape[1] ** 0.5
            return matrix + size * noise * self.options.noise

        return MemoryVectors(
            shaken(vectors.targets),
            shaken(vectors.hidden),
            {module: shaken(matrix) for module, matrix in vectors.keys.items()},
        )

    def _with_keys(self, chosen: Received) -> Received:
        """Give received texts empty keys, so that they join those with keys; they are not used."""
        keys = {
            module: matrix.new_zeros(len(chosen), matrix.shape[1])
            for module, matrix in self.personal.own.keys.items()
        }
        return replace(chosen, vectors=replace(chosen.vectors, keys=keys))

    def _plus(self, new: Mapping[str, LayerUpdate]) -> dict[str, LayerUpdate]:
        return self._kept(add_updates(self.personal.updates, new))

    def _kept(self, updates: Mapping[str, LayerUpdate]) -> dict[str, LayerUpdate]:
        exact = self.model.dtype == torch.float64
        dtype = torch.float64 if exact else torch.float32
        return {module: update.compact().to(dtype) for module, update in updates.items()}


def _edits(received: Received) -> tuple[list[EditRequest], Targets]:
    """Turn received texts and target vectors into requests and targets."""
    requests = [
        EditRequest(f"{sender}/{place}", prompt, subject, target)
        for sender, place, (prompt, subject, target) in zip(
            received.sender.tolist(), received.place.tolist(), received.texts, strict=True
        )
    ]
    return requests, _targets(received.vectors.targets)


def _targets(vectors: Tensor) -> Targets:
    none = torch.zeros(len(vectors))
    return Targets(vectors, vectors.clone(), none, none.long())

"""Which requests an order means, with what settled conflicts have changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleke_flwr import wire
from fleke_flwr.apps.ledger import Entry, Ledger, TaggedRounds
from fleke_flwr.apps.session import Session
from fleke_flwr.data.augmentation import AUGMENTATIONS, known_templates, not_judging
from fleke_flwr.tags import edit_tag
from fleke_flwr.types import EditRequest, EvalCase
from fleke_flwr.wire import TrainOrder


@dataclass
class RoundRequests:
    """A client's requests as an order asks for them.

    Parameters
    ----------
    session : Session
        The client.
    order : TrainOrder
        Says which rounds and which part.
    ledger : Ledger
        What the client has taken back and strengthened.
    added : int
        How many requests of the last answer strengthen others and are no edits by themselves.
    """

    session: Session
    order: TrainOrder
    ledger: Ledger
    added: int = field(default=0, init=False)

    def requests(self) -> list[EditRequest]:
        """Return the requests of the order's part."""
        order = self.order
        if order.part == wire.WITHDRAWN:
            return self._withdrawn()
        if order.part == wire.ADDED:
            return self._strengthening(order.round, order.round)
        first = 1 if order.cumulative else order.first
        if order.pooled:
            cases = self.session.pooled(order.rounds, first, order.round)
            return [case.request for case in cases]
        standing = [item.request for item in self._rounds(first).standing(self.ledger)]
        return standing + self._strengthening(first, order.round)

    def fresh(self) -> list[EditRequest]:
        """Return the requests that are not in the shared model yet, however many rounds' it is."""
        order = self.order
        if order.pooled:
            cases = self.session.pooled(order.rounds, order.first, order.round)
            return [case.request for case in cases]
        return [item.request for item in self._rounds(order.first).standing(self.ledger)]

    def _rounds(self, first: int) -> TaggedRounds:
        rounds = {
            number: [case.request for case in self.session.slot(self.order.rounds, number)]
            for number in range(first, self.order.round + 1)
        }
        return TaggedRounds(rounds, self.session.tag_key)

    def _withdrawn(self) -> list[EditRequest]:
        """Return what this round's verdicts take back, as far as it is in the running sum."""
        entries = [
            entry
            for entry in self.ledger.withdrawn
            if entry.settled == self.order.round and self._is_summed(entry)
        ]
        return [case.request for case in self._of(entries)]

    def _strengthening(self, first: int, last: int) -> list[EditRequest]:
        """Return what verdicts of these rounds add; an edit that is not in the sum goes again."""
        entries = [entry for entry in self.ledger.strengthened if first <= entry.settled <= last]
        conflict = self.session.config.conflict
        augmentation = AUGMENTATIONS.get(conflict.augmentation)()
        known = known_templates(conflict.templates, self._own_requests()) if entries else {}
        found: list[EditRequest] = []
        for entry, case in zip(entries, self._of(entries), strict=True):
            if not self._is_summed(entry):
                found.append(case.request)
            templates = not_judging(known, case)
            found += augmentation.augment(case.request, templates, conflict.strength)
        self.added = len(found)
        return found

    def _is_summed(self, entry: Entry) -> bool:
        """Tell whether the running sum holds an edit: older rounds' are only in ``statistics``."""
        return self.session.config.memory == "statistics" or entry.round >= self.order.first

    def _of(self, entries: list[Entry]) -> list[EvalCase]:
        known = {
            (number, edit_tag(case.request, self.session.tag_key)): case
            for number, cases in enumerate(self.session.dealt(self.order.rounds), start=1)
            for case in cases
        }
        return [known[entry.round, entry.tag] for entry in entries]

    def _own_requests(self) -> list[EditRequest]:
        return [case.request for case in self.session.seen(self.order.rounds, self.order.round)]

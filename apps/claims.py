"""What a client says about contradictions: which edits it misses, which it claims, who won."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flwr.app import RecordDict

from fleke_flwr import wire
from fleke_flwr.apps.ledger import Entry, Ledger, Tagged, TaggedRounds
from fleke_flwr.apps.session import Session
from fleke_flwr.evaluation.answers import judge
from fleke_flwr.evaluation.pairs import Pair, judge_pairs
from fleke_flwr.evaluation.quality import evaluate
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState
from fleke_flwr.tags import edit_tag, question_of, question_tag
from fleke_flwr.types import EvalCase
from fleke_flwr.wire import Claim, Sums, TrainOrder, Verdict


@dataclass
class Claimant:
    """A client while conflicts are settled.

    Parameters
    ----------
    session : Session
        The client.
    order : TrainOrder
        Says which round it is.
    memory : RecordDict
        The node's Flower state, in which verdicts are kept.
    """

    session: Session
    order: TrainOrder
    memory: RecordDict

    def __post_init__(self) -> None:
        """Read the verdicts so far."""
        self.ledger = Ledger.load(self.memory, self.order.variant)

    def losers(self, state: EditState) -> list[str]:
        """Return the tags of standing edits that the shared model does not give as its answer."""
        model, standing = self.session.model, self._standing()
        asked = [(item.request.text, item.request.target) for item in standing]
        with state.applied(model.model):
            answers = judge(model, asked, self.session.config.evaluation.batch_tokens, Silent())
        return [
            item.tag
            for item, question in zip(standing, asked, strict=True)
            if not answers[question].is_top
        ]

    def claims(self, disputed: Collection[str]) -> list[Claim]:
        """Sign in for every standing edit whose question is disputed."""
        return [
            Claim(item.round, place, item.tag)
            for place, item in enumerate(self._standing())
            if question_of(item.tag) in disputed
        ]

    def accept(self, verdict: Verdict) -> None:
        """Note what is taken back and what is strengthened."""
        settled = self.order.round
        self.ledger = self.ledger.plus(
            [Entry(settled, claim.round, claim.tag) for claim in verdict.withdraw],
            [Entry(settled, claim.round, claim.tag) for claim in verdict.strengthen],
        )
        self.ledger.save(self.memory, self.order.variant)

    def judged(self, state: EditState, disputed: Collection[str]) -> dict[str, Sums]:
        """Measure this client's winning edits against their rivals, and what is not disputed.

        Whose answer lost is known where all records are at hand, in a simulation. In a deployment
        only the own answer is looked at.
        """
        model, config = self.session.model, self.session.config
        unrelated = [
            case
            for case in standing_cases(self.session, self.order, self.ledger)
            if question_tag(case.request, self.session.tag_key) not in disputed
        ]
        with state.applied(model.model):
            pairs = judge_pairs(model, self._pairs(), config.evaluation)
            quality = evaluate(model, unrelated, config.evaluation, config.seed)
        return {wire.PAIRS: pairs, wire.UNRELATED: quality.sums()}

    def _pairs(self) -> list[Pair]:
        won = {
            (entry.round, entry.tag)
            for entry in self.ledger.strengthened
            if entry.settled == self.order.round
        }
        rivals = self._answers()
        return [
            Pair(
                item.request.text,
                item.request.target,
                next(
                    (
                        answer
                        for tag, answer in rivals.get(question_of(item.tag), {}).items()
                        if tag != item.tag
                    ),
                    "",
                ),
            )
            for item in self._all()
            if (item.round, item.tag) in won
        ]

    def _answers(self) -> dict[str, dict[str, str]]:
        """Return every client's answers by question and tag; nobody's in a deployment."""
        found: dict[str, dict[str, str]] = {}
        if self.session.own_data:
            return found
        key = self.session.tag_key
        for case in self.session.pooled(self.order.rounds, 1, self.order.round):
            tag = edit_tag(case.request, key)
            found.setdefault(question_of(tag), {})[tag] = case.request.target
        return found

    def _standing(self) -> list[Tagged]:
        return tagged_rounds(self.session, self.order).standing(self.ledger)

    def _all(self) -> tuple[Tagged, ...]:
        return tagged_rounds(self.session, self.order).all


def tagged_rounds(session: Session, order: TrainOrder) -> TaggedRounds:
    """Return the client's requests of all rounds up to the order's."""
    dealt = session.dealt(order.rounds)[: order.round]
    return TaggedRounds(
        {number: [case.request for case in cases] for number, cases in enumerate(dealt, start=1)},
        session.tag_key,
    )


def standing_cases(session: Session, order: TrainOrder, ledger: Ledger) -> list[EvalCase]:
    """Return the client's records of all rounds so far that have not been taken back."""
    return [
        case
        for number, cases in enumerate(session.dealt(order.rounds)[: order.round], start=1)
        for case in cases
        if ledger.keeps(number, edit_tag(case.request, session.tag_key))
    ]

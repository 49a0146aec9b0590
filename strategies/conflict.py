"""Contradicting edits: found by the clients, settled by the server, without any text.

Source: CollabEdit, section on knowledge conflict. The paper lets clients report poor results, lets
the server choose by first-come, and lets the owner augment its request; the released code runs
three central edits instead, with the winner fixed, and restores weights inside its evaluation loop,
so that only its first record is measured as intended. Here, after the merge of a round:

1. every client names, by tag, its edits that the merged model does not give as its answer;
2. every client that holds an edit of a named question signs in;
3. where answers differ, the first or the latest one stays: the others are taken out of the sums
   again, and its owner adds requests that strengthen it;
4. the model is solved again and every client looks again.

Two edits with one key and residuals ``r1`` and ``r2`` write ``(r1 + r2) q / (1 + 2q)``, their mean:
that is why both lose, and why taking one out is the cure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from flwr.app import ConfigRecord, RecordDict

from fleke_flwr import wire
from fleke_flwr.errors import PayloadError
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.tags import question_of
from fleke_flwr.wire import Claim, Sums, Verdict

if TYPE_CHECKING:
    from fleke_flwr.strategies.collabedit import CollabEdit

FIRST_COME = "first-come"
_Read = TypeVar("_Read")


def settle(claims: Mapping[int, Sequence[Claim]], policy: str) -> dict[int, Verdict]:
    """Say for every client which of its claims fall and which it shall strengthen.

    Parameters
    ----------
    claims : Mapping[int, Sequence[Claim]]
        By client. The order is that of rounds; inside a round that of the clients' numbers, since
        messages of one round arrive in any order; inside a client that of its edits.
    policy : str
        ``first-come`` or ``latest``.

    Returns
    -------
    dict[int, Verdict]
        Clients with anything to do. A question with one answer alone is no conflict, however many
        hold it; whoever holds the winning answer keeps it, and the first of them strengthens it.
    """
    by_question: dict[str, list[tuple[tuple[int, int, int], int, Claim]]] = {}
    for client, found in claims.items():
        for claim in found:
            place = (claim.round, client, claim.place)
            by_question.setdefault(question_of(claim.tag), []).append((place, client, claim))
    withdraw: dict[int, list[Claim]] = {}
    strengthen: dict[int, list[Claim]] = {}
    for signed in by_question.values():
        if len({claim.tag for _, _, claim in signed}) < 2:
            continue
        signed.sort(key=lambda item: item[0])
        _, owner, winner = signed[0] if policy == FIRST_COME else signed[-1]
        strengthen.setdefault(owner, []).append(winner)
        for _, client, claim in signed:
            if claim.tag != winner.tag:
                withdraw.setdefault(client, []).append(claim)
    return {
        client: Verdict(tuple(withdraw.get(client, [])), tuple(strengthen.get(client, [])))
        for client in sorted({*withdraw, *strengthen})
    }


class Settlement:
    """The exchange of messages behind the merge of one round.

    Parameters
    ----------
    strategy : CollabEdit
        Whose round it is.
    round_ : int
        The round.
    """

    def __init__(self, strategy: CollabEdit, round_: int) -> None:
        self._strategy = strategy
        self._round = round_
        self._record = strategy.history[-1]

    def run(self) -> None:
        """Find, settle, merge again, look again; book everything in the round's record."""
        nodes = self._strategy.present_nodes()
        counts = self._record.conflicts
        losers = self._losers(nodes)
        counts["losers"] = sum(len(tags) for tags in losers.values())
        disputed = sorted({question_of(tag) for tags in losers.values() for tag in tags})
        verdicts = settle(self._claims(nodes, disputed), self._strategy.plan.conflict.policy)
        fallen = [claim for verdict in verdicts.values() for claim in verdict.withdraw]
        winners = [claim for verdict in verdicts.values() for claim in verdict.strengthen]
        counts["disputed"] = len(winners)
        counts["withdrawn"] = len(fallen)
        counts["strengthened"] = len(winners)
        if not winners:
            return
        self._tell(nodes, verdicts)
        questions = sorted({question_of(claim.tag) for claim in winners})
        self._record.judged["before"] = self._judged(nodes, questions)
        self._merge_again(nodes, verdicts)
        self._record.edits -= 0 if self._strategy.replays else self._withdrawn_now(fallen)
        self._record.judged["after"] = self._judged(nodes, questions)
        counts["losers_after"] = sum(len(tags) for tags in self._losers(nodes).values())

    def _withdrawn_now(self, fallen: Sequence[Claim]) -> int:
        return sum(claim.round == self._round for claim in fallen)

    def _losers(self, nodes: Sequence[Node]) -> dict[int, list[str]]:
        content = self._strategy.order_content(self._round)
        return self._asked(nodes, "query.losers", content, wire.read_tags)

    def _claims(self, nodes: Sequence[Node], disputed: Sequence[str]) -> dict[int, list[Claim]]:
        content = self._with(wire.write_tags(disputed))
        asked = set(disputed)

        def claims(reply: RecordDict) -> list[Claim]:
            found = wire.read_claims(reply)
            for claim in found:
                if claim.round > self._round or question_of(claim.tag) not in asked:
                    raise PayloadError("a claim of a later round, or of what nobody disputes")
            return found

        return self._asked(nodes, "query.claims", content, claims)

    def _tell(self, nodes: Sequence[Node], verdicts: Mapping[int, Verdict]) -> None:
        concerned = [node for node in nodes if node.partition in verdicts]
        for _ in self._strategy.ask(
            concerned,
            "train.verdict",
            lambda node: self._with(wire.write_verdict(verdicts[node.partition])),
        ):
            pass

    def _judged(self, nodes: Sequence[Node], questions: Sequence[str]) -> dict[str, Sums]:
        content = self._with(wire.write_tags(questions))
        found = self._asked(nodes, "evaluate.pairs", content, _pairs)
        return {
            name: wire.add_sums([groups[name] for groups in found.values()])
            for name in (wire.PAIRS, wire.UNRELATED)
        }

    def _asked(
        self,
        nodes: Sequence[Node],
        kind: str,
        content: RecordDict,
        reader: Callable[[RecordDict], _Read],
    ) -> dict[int, _Read]:
        """Ask every node the same; whoever answers nothing readable is named and left out."""
        found: dict[int, _Read] = {}
        for node, reply in self._strategy.ask(nodes, kind, lambda _: content):
            try:
                found[node.partition] = reader(reply.content)
            except PayloadError as error:
                self._strategy.leave_out(node, f"{kind}: {error}")
        return found

    def _merge_again(self, nodes: Sequence[Node], verdicts: Mapping[int, Verdict]) -> None:
        strategy = self._strategy
        if strategy.replays:
            strategy.replay(self._round)
            return
        losing = [node for node in nodes if node.partition in _clients(verdicts, "withdraw")]
        winning = [node for node in nodes if node.partition in _clients(verdicts, "strengthen")]
        for part, asked in ((wire.WITHDRAWN, losing), (wire.ADDED, winning)):
            strategy.amend(self._round, part, asked)
        strategy.settled(self._round)

    def _with(self, record: ConfigRecord) -> RecordDict:
        content = self._strategy.order_content(self._round)
        content["conflict"] = record
        return content


def _pairs(content: RecordDict) -> dict[str, Sums]:
    """Read the measurements of settled pairs and of what nobody disputes."""
    groups = wire.read_groups(content)
    if not {wire.PAIRS, wire.UNRELATED} <= set(groups):
        raise PayloadError("the reply lacks measurements of pairs, or of unrelated records")
    return groups


def _clients(verdicts: Mapping[int, Verdict], part: str) -> set[int]:
    return {client for client, verdict in verdicts.items() if getattr(verdict, part)}

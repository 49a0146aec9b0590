"""FedEdit: clients keep models of their own and re-use one another's target vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fleke_flwr import wire
from fleke_flwr.config import FedEditConfig
from fleke_flwr.errors import PayloadError
from fleke_flwr.strategies.bounds import check_targets
from fleke_flwr.strategies.federated import FederatedStrategy, log
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.strategies.rounds import RoundRecord, good_reply, note_costs
from fleke_flwr.strategies.store import VectorStore
from fleke_flwr.values import Scalar

_SHARE, _REEDIT = 0, 1


class FedEdit(FederatedStrategy):
    """Hand memory vectors of each time slot to the other clients, which edit with what they want.

    Source: FedLEKE (arXiv 2502.15677), algorithm 1. A slot is a round of two messages: clients edit
    their own records and upload ``(z, h, k_l)``; the server stores them by slot and hands out what
    a client has not been handed yet; clients select by the re-edit condition (eq. 8) and edit once
    more. There is no global model.

    Departs from the released code: no text leaves a client unless ``exchange`` is ``tokens``, which
    is that code's behaviour. Departs from both by default: the personal model is solved once from
    the base model out of own and received statistics (rule ``pooled``), because re-editing on top
    costs a client its own edits; ``rule = "paper"`` is the paper's way.

    The server sees every uploaded vector and hands all of a slot to everybody; which of them a
    client takes, only that client knows, apart from the counts it reports.

    Parameters
    ----------
    plan, nodes
        See :class:`FederatedStrategy`.
    fededit : FedEditConfig
        Rule, exchange, condition and noise.
    """

    reply: ClassVar[str] = "vectors"
    personal: ClassVar[bool] = True
    judging: ClassVar[str] = "evaluate.personal"

    def __init__(
        self,
        plan: Plan,
        nodes: Sequence[Node] | None = None,
        fededit: FedEditConfig | None = None,
    ) -> None:
        super().__init__(plan, nodes)
        self.fededit = fededit or FedEditConfig()
        self.store = VectorStore()
        self._present = 0

    @property
    def exchanges(self) -> int:
        """Two messages: share, and re-edit with what the others shared."""
        return 2

    @property
    def options(self) -> Mapping[str, Scalar]:
        """What clients need to know to select and to edit."""
        return asdict(self.fededit)

    def summary(self) -> None:
        """Log what will be done, and what is shown to whom."""
        spec, chosen = self.plan.spec, self.fededit
        log.info("\t├──> Editing:")
        log.info("\t│\t├── %s, layers %s, mode %s", spec.editor, list(spec.layers), spec.mode)
        log.info("\t│\t└── rule %s, exchange of %s", chosen.rule, chosen.exchange)
        if chosen.exchange == "tokens":
            warning = (
                "fededit.exchange = tokens hands every client's prompts, subjects and new objects "
                "to the server and to all other clients; use vectors to keep the text at home"
            )
            log.warning(warning)
            self.plan.progress.line(f"warning: {warning}")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for this slot's vectors, or hand out the others'."""
        slot, exchange = self._place(server_round)
        if exchange == _SHARE:
            self.history.append(RoundRecord(slot))
            nodes = self._welcome(slot, grid)
            self._asked = list(nodes)
            self._phase(f"{self.label}: edit and share, slot {slot}")
            content = wire.write_order(self._order(slot, exchange), self.state)
            return [self._message(node, "train.share", content, server_round) for node in nodes]
        self._phase(f"{self.label}: re-edit, slot {slot}")
        return self._hand_out(self._known_nodes(grid), slot, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Store the uploads, or book the receipts."""
        slot, exchange = self._place(server_round)
        record = self.history[-1]
        if exchange == _SHARE:
            self._keep_uploads(list(replies), slot, record)
        else:
            self._book_receipts(list(replies), slot, record)
            self.on_round()
        counts = {f"count-{name}": value for name, value in record.counts.items()}
        return None, MetricRecord({"edits": record.edits, **counts})

    def remembered(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return the uploads of all slots, and who has been handed what."""
        return self.store.packed()

    def remember(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take the uploads over."""
        self.store = VectorStore.unpacked(tensors, about)

    def _hand_out(self, nodes: Sequence[Node], slot: int, server_round: int) -> list[Message]:
        self._asked, messages = [], []
        self._present = len(nodes)
        order = wire.write_order(self._order(slot, _REEDIT), self.state)
        for node in nodes:
            received = self.store.waiting(node.partition)
            if received is None:
                continue
            records = wire.write_received(received, self._wire_dtype)
            content = RecordDict({**order, **records})
            self.history[-1].down_bytes += wire.num_bytes(content.array_records["received"])
            self._asked.append(node)
            messages.append(self._message(node, "train.reedit", content, server_round))
        return messages

    def _message(self, node: Node, kind: str, content: RecordDict, server_round: int) -> Message:
        return Message(content, node.node_id, kind, group_id=str(server_round))

    def _keep_uploads(self, replies: Sequence[Message], slot: int, record: RoundRecord) -> None:
        expected = self._expected_vectors()
        good = 0
        for node, reply in self._good_replies(replies, record):
            try:
                shared = wire.read_vectors(reply.content, expected)
                self._check_bounds(node, shared)
                note_costs(reply, record)
            except PayloadError as error:
                self._leave_out(node, str(error), record)
                continue
            if self.store.add(slot, node.partition, shared):
                self._say(f"client {node.partition} has lost its own model and makes it again")
            record.edits += len(shared.vectors)
            good += 1
        self.check_enough(f"slot {slot}", good, record)

    def _check_bounds(self, node: Node, shared: wire.SharedVectors) -> None:
        bounds, spec, noise = self.plan.bounds, self.plan.spec, self.fededit.noise
        if bounds is None:
            return
        if shared.first + len(shared.vectors) > node.edits:
            raise PayloadError(
                f"edits {shared.first} to {shared.first + len(shared.vectors)} of a client that "
                f"has announced {node.edits}"
            )
        check_targets(shared.vectors, spec.clamp, noise)
        if self.fededit.exchange != "tokens":
            bounds.check_vectors(shared.vectors, self.plan.priors, spec.mode, noise)

    def _book_receipts(self, replies: Sequence[Message], slot: int, record: RoundRecord) -> None:
        # A client that nothing waits for is not asked, and none the worse for it.
        good = self._present - len(self._asked)
        for node, reply in self._good_replies(replies, record):
            try:
                note_costs(reply, record)
            except PayloadError as error:
                self._leave_out(node, str(error), record)
                continue
            self.store.served(node.partition, slot)
            good += 1
        self.check_enough(f"slot {slot}, re-edit", good, record)

    def _good_replies(
        self, replies: Sequence[Message], record: RoundRecord
    ) -> Iterable[tuple[Node, Message]]:
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        for node in self._asked:
            try:
                reply = good_reply(by_node.get(node.node_id), self.timeout)
            except PayloadError as error:
                self._leave_out(node, str(error), record)
                continue
            yield node, reply

    def _expected_vectors(self) -> wire.ExpectedVectors:
        with_texts = self.fededit.exchange == "tokens"
        return wire.ExpectedVectors(
            base=self.plan.base,
            editor=self.plan.spec.editor,
            widths={} if with_texts else self.plan.widths,
            d_out=self.plan.d_out,
            with_texts=with_texts,
        )


class FedEditNoCondition(FedEdit):
    """FedEdit without the re-edit condition: every client takes everything (FedLEKE's ``w/o Z``).

    Departs from the released ablation, which keeps the condition with a threshold of 0.
    """

    def __init__(
        self,
        plan: Plan,
        nodes: Sequence[Node] | None = None,
        fededit: FedEditConfig | None = None,
    ) -> None:
        chosen = replace(fededit or FedEditConfig(), alpha=float("-inf"), quantile=-1.0)
        super().__init__(plan, nodes, chosen)

"""What every merging strategy shares: checked contributions, merged into one shared state."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fleke_flwr import wire
from fleke_flwr.errors import PayloadError
from fleke_flwr.modes import exchange_groups, exchanges_per_round
from fleke_flwr.state import EditState
from fleke_flwr.strategies.federated import FederatedStrategy, log
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.rounds import RoundRecord, good_reply, note_costs
from fleke_flwr.types import EditPayload, LayerUpdate, group_name


class EditStrategy(FederatedStrategy):
    """Base of the merging strategies: subclasses write :meth:`merge` and nothing else.

    A round is ``exchanges`` train messages (one, or one per edited layer in ``layer_sync``) and one
    evaluate message. Replies are checked, ordered by partition and merged.
    """

    reply: ClassVar[str] = wire.STATISTICS

    @abstractmethod
    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        """Turn the clients' contributions, ordered by partition, into updates to add.

        Parameters
        ----------
        payloads : Sequence[EditPayload]
            At least ``needed_clients``, all checked; a client without edits sends empty factors.
        state : EditState
            What has been merged so far.
        """

    def select(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Choose the nodes that edit in the coming exchange; all by default."""
        return nodes

    @property
    def exchanges(self) -> int:
        """Train messages per round."""
        return exchanges_per_round(self.plan.spec.mode, len(self.plan.modules))

    def summary(self) -> None:
        """Log what will be done."""
        spec = self.plan.spec
        log.info("\t├──> Editing:")
        log.info("\t│\t├── %s, layers %s, mode %s", spec.editor, list(spec.layers), spec.mode)
        log.info("\t│\t├── %d exchange(s) per round", self.exchanges)
        log.info("\t│\t└── sends %s as %s", self.reply, self.plan.encoding)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Order every selected client to contribute to the coming exchange."""
        round_, exchange = self._place(server_round)
        if exchange == 0:
            self._round_state = self.state
            self.history.append(RoundRecord(round_))
        self._asked = list(self.select(self._known_nodes(grid)))
        self._phase(
            f"{self.label}: edit, round {round_}"
            + (f", layer {exchange + 1} of {self.exchanges}" if self.exchanges > 1 else "")
        )
        content = wire.write_order(self._order(round_, exchange), self.state)
        self._count_down(content.array_records["state"])
        return [
            Message(content, node.node_id, "train.edit", group_id=str(server_round))
            for node in self._asked
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check, order and merge the replies; return the new shared state."""
        round_, exchange = self._place(server_round)
        record = self.history[-1]
        payloads = self._accept(list(replies), self._expected(exchange), record)
        self.check_enough(f"round {round_}", len(payloads), record)
        started = time.perf_counter()
        updates = self.merge(payloads, self.state)
        if exchange == self.exchanges - 1:
            record.edits = sum(payload.num_edits for payload in payloads)
        self.state = self.state.plus(
            {
                module: update.compact().to(self.plan.state_dtype)
                for module, update in updates.items()
            },
            round_ if exchange == self.exchanges - 1 else round_ - 1,
        )
        record.spend("aggregate", time.perf_counter() - started)
        record.update_norm = float(
            torch.stack([update.dense().norm() for update in self.state.updates.values()]).norm()
        )
        metrics = MetricRecord({"edits": record.edits, "clients": len(payloads)})
        return wire.write_state(self.state), metrics

    def _expected(self, exchange: int) -> wire.Expected:
        groups = exchange_groups(self.plan.spec.mode, self.plan.modules, exchange)
        modules = tuple(module for group in groups for module in group)
        if self.pooled:
            modules = self.plan.modules
        names = tuple(group_name(group) for group in groups)
        return wire.Expected(
            base=self.plan.base,
            state=self.state.fingerprint,
            editor=self.plan.spec.editor,
            mode=self.plan.spec.mode,
            kind=self.reply,
            encoding=self.plan.encoding,
            groups=names if self.reply == wire.STATISTICS else modules,
            widths=self.plan.widths,
            d_out=self.plan.d_out,
        )

    def _accept(
        self, replies: Sequence[Message], expected: wire.Expected, record: RoundRecord
    ) -> list[EditPayload]:
        """Read the good replies in partition order; name every client that has none."""
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        payloads = []
        for node in self._asked:
            try:
                reply = good_reply(by_node.get(node.node_id), self.timeout)
                payload = wire.read_payload(reply.content, expected)
            except PayloadError as error:
                self._leave_out(node, str(error), record)
                continue
            payloads.append(payload)
            note_costs(reply, record)
        return payloads

"""What every merging strategy shares: checked contributions, merged into one shared state."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fleke_flwr import wire
from fleke_flwr.errors import PayloadError
from fleke_flwr.fusion import Fusion
from fleke_flwr.modes import exchange_groups, exchanges_per_round
from fleke_flwr.state import EditState
from fleke_flwr.strategies.checkpoint import Checkpoint
from fleke_flwr.strategies.federated import FederatedStrategy, log
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.strategies.rounds import RoundRecord, good_reply, no_reply, note_costs
from fleke_flwr.types import EditPayload, LayerUpdate, add_updates, group_name

_FUSION = "fusion:"


class EditStrategy(FederatedStrategy):
    """Base of the merging strategies: subclasses write :meth:`merge` and nothing else.

    A round is ``exchanges`` train messages (one, or one per edited layer in ``layer_sync``; as many
    again for every further sweep) and one evaluate message. Replies are checked, ordered by
    partition and merged. A client that is left out of an exchange is not asked again in the same
    round: the round goes on as if it had not taken part from there on.
    """

    reply: ClassVar[str] = wire.STATISTICS

    def __init__(self, plan: Plan, nodes: Sequence[Node] | None = None) -> None:
        super().__init__(plan, nodes)
        self.fusion = Fusion() if plan.fusion is None else plan.fusion.anew()
        # The state that the running round has started from.
        self._opened = self.state
        self._dropped: set[int] = set()
        # Who contributed to the running exchange, in the order of the contributions.
        self.contributors: list[int] = []

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

    def gather(self, payloads: Iterator[EditPayload]) -> Sequence[EditPayload]:
        """Collect the contributions of an exchange as they come in."""
        return list(payloads)

    def next_updates(self, payloads: Sequence[EditPayload]) -> Mapping[str, LayerUpdate]:
        """Return the total updates after an exchange: what there was and what is merged."""
        return add_updates(self.state.updates, self.narrowed(self.merge(payloads, self.state)))

    def narrowed(self, updates: Mapping[str, LayerUpdate]) -> dict[str, LayerUpdate]:
        """Return updates in the form in which the shared state keeps and sends them."""
        return {
            module: update.compact().to(self.plan.state_dtype) for module, update in updates.items()
        }

    @property
    def exchanges(self) -> int:
        """Train messages per round."""
        return self.sweep_length * self.plan.sweeps

    @property
    def sweep_length(self) -> int:
        """Train messages of one pass over the edited layers."""
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
            self.history.append(RoundRecord(round_))
            self._opened = self.state
        return self.order_edits(round_, exchange, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check, order and merge the replies; return the new shared state."""
        round_, exchange = self._place(server_round)
        self.take_edits(round_, exchange, replies)
        if exchange == self.exchanges - 1:
            self.close_round(round_)
            self.on_round()
        metrics = MetricRecord({"edits": self.history[-1].edits, "clients": len(self.contributors)})
        return wire.write_state(self.state), metrics

    def open_round(self, round_: int) -> None:
        """Prepare the first exchange of a round."""
        self._dropped.clear()

    def close_round(self, round_: int) -> None:
        """Finish a round that has been merged: fuse it with what was before."""
        of_clients = self.reply == wire.UPDATES
        before, after = self._opened.updates, self.state.updates
        fused = self.fusion.of_round(before, after, round_, of_clients)
        self.state = replace(self.state, updates=fused)
        record = self.history[-1]
        norms = [update.dense().norm() for update in self.state.updates.values()]
        record.update_norm = float(torch.stack(norms).norm())

    def checkpoint(self, variant: str, seconds: float) -> Checkpoint:
        """Return everything that is needed to go on, what the fusion rule remembers included."""
        kept = super().checkpoint(variant, seconds)
        fusion = {f"{_FUSION}{name}": found for name, found in self.fusion.remembered().items()}
        return replace(kept, tensors={**kept.tensors, **fusion})

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint; see :meth:`FederatedStrategy.go_on_from`."""
        own = dict(checkpoint.tensors)
        names = [name for name in own if name.startswith(_FUSION)]
        self.fusion.remember({name.removeprefix(_FUSION): own.pop(name) for name in names})
        super().go_on_from(replace(checkpoint, tensors=own))

    def order_edits(self, round_: int, exchange: int, grid: Grid) -> list[Message]:
        """Return the messages of one exchange."""
        sweep, step = divmod(exchange, self.sweep_length)
        if exchange == 0:
            self.open_round(round_)
        if step == 0:
            self._sweep_state = self.state
        present = self._known_nodes(grid) if exchange else self._welcome(round_, grid)
        asked = self.select(present)
        self._asked = [node for node in asked if node.partition not in self._dropped]
        self._phase(f"{self.label}: edit, round {round_}" + self._spoken_place(sweep, step))
        order, sent = self._order(round_, step, sweep), self.sent_state(exchange)
        # Nearly always one content for all, which Flower then stores once.
        contents: dict[int, RecordDict] = {}
        messages = []
        for node in self._asked:
            first = round_ if self.pooled else self.first_fresh(node.partition, round_)
            if first not in contents:
                contents[first] = wire.write_order(replace(order, first=first), sent)
            group = f"{round_}.{exchange}"
            messages.append(Message(contents[first], node.node_id, "train.edit", group_id=group))
        for content in list(contents.values())[:1]:
            self._count_down(content.array_records["state"])
        return messages

    def take_edits(self, round_: int, exchange: int, replies: Iterable[Message]) -> None:
        """Merge the replies to one exchange into the shared state."""
        record = self.history[-1]
        self.contributors.clear()
        sweep, step = divmod(exchange, self.sweep_length)
        place = self._order(round_, step, sweep).place
        expected = replace(self._expected(step, self.sent_state(exchange)), place=place)
        payloads = self.gather(self._accepted(replies, expected, record))
        self.check_enough(f"round {round_}", len(self.contributors), record)
        started = time.perf_counter()
        record.edits = sum(payload.num_edits for payload in payloads)
        if self.runs_all_rounds:
            record.edits -= sum(earlier.edits for earlier in self.history[:-1])
        last = exchange == self.exchanges - 1
        self.state = EditState(
            self.plan.base, round_ if last else round_ - 1, self.next_updates(payloads)
        )
        if last:
            record.merged = sorted(self.contributors)
        record.spend("aggregate", time.perf_counter() - started)

    def present_nodes(self) -> list[Node]:
        """Return the nodes that have not been left out of the running round."""
        assert self._watched is not None  # rounds run inside start
        nodes = self._known_nodes(self._watched)
        return [node for node in nodes if node.partition not in self._dropped]

    def ask(
        self, nodes: Sequence[Node], kind: str, content: Callable[[Node], RecordDict]
    ) -> Iterator[tuple[Node, Message]]:
        """Send nodes something outside the exchanges of a round; yield the good replies."""
        assert self._watched is not None  # rounds run inside start
        waiting = {node.node_id: node for node in nodes}
        messages = [Message(content(node), node.node_id, kind, group_id=kind) for node in nodes]
        self._phase(f"{self.label}: {kind.partition('.')[2]}")
        for reply in self._watched.send_and_receive(messages, timeout=self.timeout):
            node = waiting.pop(reply.metadata.src_node_id, None)
            if node is None:
                continue
            try:
                good_reply(reply, self.timeout)
                note_costs(reply, self.history[-1])
            except PayloadError as error:
                self.leave_out(node, f"{kind}: {error}")
                continue
            yield node, reply
        for node in waiting.values():
            self.leave_out(node, f"{kind}: {no_reply(self.timeout)}")

    def leave_out(self, node: Node, why: str) -> None:
        """Name a client and leave it out of the rest of the round."""
        self._dropped.add(node.partition)
        self._leave_out(node, why, self.history[-1])

    def check_bounds(self, node: Node, payload: EditPayload) -> None:
        """Refuse a contribution that does more than one client may.

        Raises
        ------
        PayloadError
            Saying what was measured and what is allowed.
        """
        bounds, plan = self.plan.bounds, self.plan
        if bounds is None:
            return
        most = sum(other.edits for other in self._everybody) if self.pooled else node.edits
        if plan.conflict.policy:
            # A winning edit may be made once more, and is strengthened.
            most *= 2 + plan.conflict.strength
        bounds.check(payload, plan.priors, plan.spec.mode, most)

    def sent_state(self, exchange: int) -> EditState:
        """Return the state that goes out with an exchange."""
        return self.state

    def _spoken_place(self, sweep: int, step: int) -> str:
        parts = []
        if self.plan.sweeps > 1:
            parts.append(f", sweep {sweep + 1} of {self.plan.sweeps}")
        if self.sweep_length > 1:
            parts.append(f", layer {step + 1} of {self.sweep_length}")
        return "".join(parts)

    def _expected(self, step: int, sent: EditState) -> wire.Expected:
        groups = exchange_groups(self.plan.spec.mode, self.plan.modules, step)
        modules = tuple(module for group in groups for module in group)
        names = tuple(group_name(group) for group in groups)
        return wire.Expected(
            base=self.plan.base,
            state=sent.fingerprint,
            editor=self.plan.spec.editor,
            mode=self.plan.spec.mode,
            kind=self.reply,
            encoding=self.plan.encoding,
            groups=names if self.reply == wire.STATISTICS else modules,
            widths=self.plan.widths,
            d_out=self.plan.d_out,
            heights=self.plan.heights,
        )

    def _accepted(
        self, replies: Iterable[Message], expected: wire.Expected, record: RoundRecord
    ) -> Iterator[EditPayload]:
        """Yield the good replies as they come; name every client that has none."""
        waiting = {node.node_id: node for node in self._asked}
        for reply in replies:
            node = waiting.pop(reply.metadata.src_node_id, None)
            if node is None:
                continue
            try:
                good_reply(reply, self.timeout)
                payload = wire.read_payload(reply.content, expected)
                self.check_bounds(node, payload)
                note_costs(reply, record)
            except PayloadError as error:
                self.leave_out(node, str(error))
                del reply
                continue
            self.contributors.append(node.partition)
            if self.reply == wire.UPDATES:
                fused = self.fusion.of_client(payload.updates, record.round, node.partition)
                payload = replace(payload, updates=fused)
            yield payload
            # Nothing may hold a reply while the next one is fetched: it can be as large as a sum.
            del reply, payload
        for node in waiting.values():
            self.leave_out(node, no_reply(self.timeout))

"""What every strategy shares: nodes, orders, rounds, measurements."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fleke_flwr import wire
from fleke_flwr.errors import DataError, PayloadError, RunError
from fleke_flwr.state import EditState
from fleke_flwr.strategies.checkpoint import Checkpoint
from fleke_flwr.strategies.nodes import Node, RollCall
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.strategies.rounds import RoundRecord, good_reply, note_costs
from fleke_flwr.strategies.watched import WatchedGrid
from fleke_flwr.values import Scalar

log = getLogger("flwr")


def _nothing() -> None:
    """Do nothing when a round is done."""


class FederatedStrategy(Strategy):
    """Base of all strategies: rounds of one or several train messages and one evaluate message.

    A client whose reply is missing, failed or malformed is named and left out; below
    ``needed_clients`` the run ends. Subclasses say what is ordered and what replies become.

    Parameters
    ----------
    plan : Plan
        What is edited and how.
    nodes : Sequence[Node], optional
        The clients, if already known; otherwise they are looked for before the first round. Those
        that come later join at the next round.

    Attributes
    ----------
    on_round : Callable[[], None]
        Called whenever a round has been merged, and again when it has been measured.
    """

    reply: ClassVar[str]
    pooled: ClassVar[bool] = False
    # Whether the result is one solve of the clients' statistics: what memory over rounds, sweeps
    # and the settling of conflicts need.
    solves: ClassVar[bool] = False
    # Whether each client ends with a model of its own instead of one that all share.
    personal: ClassVar[bool] = False
    judging: ClassVar[str] = "evaluate.edit"

    def __init__(self, plan: Plan, nodes: Sequence[Node] | None = None) -> None:
        self.plan = plan
        self.state = EditState(plan.base)
        self.history: list[RoundRecord] = []
        self.timeout = 3600.0
        self._done = 0
        self.on_round: Callable[[], None] = _nothing
        self._given = nodes
        self._roll: RollCall | None = None
        self._sweep_state = self.state
        self._asked: list[Node] = []
        self._watched: WatchedGrid | None = None

    @property
    @abstractmethod
    def exchanges(self) -> int:
        """Train messages per round."""

    @property
    def options(self) -> Mapping[str, Scalar]:
        """What the strategy itself asks of its clients; nothing by default."""
        return {}

    @property
    def runs_all_rounds(self) -> bool:
        """Whether every round goes through the requests of all rounds so far."""
        return False

    def reads_base(self, sweep: int, exchange: int) -> bool:
        """Tell whether clients read statistics on the unedited model, whatever state is sent."""
        return False

    @property
    def label(self) -> str:
        """What progress calls this variant."""
        variant = "".join(f" {key}={value}" for key, value in self.plan.settings.items())
        return f"{type(self).__name__}{variant}"

    def start(  # noqa: PLR0913  (Flower's own signature)
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run ``num_rounds`` rounds of editing; see ``flwr.serverapp.strategy.Strategy.start``.

        Departs from Flower's loop in three ways: a round may be several exchanges, replies are
        awaited with a short poll, and a strategy that was set to a checkpoint goes on after it.
        """
        self.timeout = timeout
        done = self._done = len(self.history)
        self.state = EditState(self.plan.base, done, wire.read_updates(initial_arrays))
        self._watched = WatchedGrid(grid, self.plan.progress)
        if done and self.plan.measures(done) and not self.history[-1].clients:
            self._measure(done)
        return super().start(
            self._watched,
            initial_arrays,
            (num_rounds - done) * self.exchanges,
            timeout,
            train_config,
            evaluate_config,
            evaluate_fn,
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let every client judge the merged model on its own records, once per round."""
        round_, exchange = self._place(server_round)
        if exchange != self.exchanges - 1 or not self.plan.measures(round_):
            return []
        return self._evaluate_messages(round_, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Add up the clients' measurements."""
        round_, exchange = self._place(server_round)
        if exchange != self.exchanges - 1 or not self.plan.measures(round_):
            return None
        metrics = self._collect_measurements(list(replies), self.history[-1])
        self.on_round()
        return metrics

    def _measure(self, round_: int) -> None:
        """Measure a round that was merged, and no more than that, before a run broke off."""
        assert self._watched is not None  # called by start
        messages = self._evaluate_messages(round_, self._watched)
        replies = self._watched.send_and_receive(messages, timeout=self.timeout)
        self._collect_measurements(list(replies), self.history[-1])
        self.on_round()

    def remembered(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return what the strategy itself needs to go on after a round: tensors, and JSON."""
        return {}, {}

    def remember(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take over what :meth:`remembered` gave; a strategy that gives nothing needs nothing."""

    def checkpoint(self, variant: str, seconds: float) -> Checkpoint:
        """Return everything that is needed to go on after the last round."""
        tensors, about = self.remembered()
        return Checkpoint(variant, self.state, list(self.history), tensors, about, seconds)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint; :meth:`start` then begins with the round after it.

        Raises
        ------
        DataError
            If it belongs to another base model.
        """
        if checkpoint.state.base != self.plan.base:
            raise DataError(
                f"the checkpoint belongs to base model {checkpoint.state.base} and this is "
                f"{self.plan.base}; put the weights back that were edited"
            )
        self.state = checkpoint.state
        self.history = list(checkpoint.history)
        self.remember(checkpoint.tensors, checkpoint.about)

    def measure_base(self, grid: Grid, timeout: float) -> RoundRecord:
        """Measure the unedited model on all clients' records, as round 0."""
        watched = WatchedGrid(grid, self.plan.progress)
        self._watched = watched
        record = RoundRecord(0)
        messages = self._evaluate_messages(self.plan.rounds, watched, EditState(self.plan.base))
        self._collect_measurements(
            list(watched.send_and_receive(messages, timeout=timeout)), record
        )
        return record

    def check_enough(self, what: str, good: int, record: RoundRecord) -> None:
        """End the run when too few clients gave a good reply.

        Raises
        ------
        RunError
            Naming every client that was left out, with the reason.
        """
        needed = 1 if self.pooled else self.plan.needed_clients
        if good < needed:
            raise RunError(
                f"{what}: {good} good replies of {len(self._asked)}, {needed} are needed. "
                + "; ".join(f"client {i}: {why}" for i, why in sorted(record.left_out.items()))
            )

    def _place(self, server_round: int) -> tuple[int, int]:
        round_, exchange = divmod(server_round - 1, self.exchanges)
        return self._done + round_ + 1, exchange

    def _known_nodes(self, grid: Grid) -> list[Node]:
        if self._roll is None:
            plan = self.plan
            self._roll = RollCall(
                base=plan.base,
                wanted=plan.clients,
                needed=plan.needed_clients,
                join_timeout=plan.join_timeout,
                timeout=self.timeout,
                say=self._say,
                nodes=list(self._given or []),
            )
            if self._given is None:
                self._roll.first(grid)
        return [node for node in self._roll.nodes if node.partition < self.plan.clients]

    @property
    def _everybody(self) -> list[Node]:
        """All nodes that have come so far."""
        return [] if self._roll is None else self._roll.nodes

    def _welcome(self, round_: int, grid: Grid) -> list[Node]:
        """Return the nodes of a round: the known ones and those that have joined since."""
        known = self._known_nodes(grid)
        assert self._roll is not None  # made there
        self._phase(f"{self.label}: meet late clients, round {round_}")
        for node in self._roll.again(grid):
            if node.partition < self.plan.clients and node not in known:
                self._say(f"client {node.partition} joins in round {round_}")
        return self._known_nodes(grid)

    def _say(self, text: str) -> None:
        log.warning(text)
        self.plan.progress.line(text)

    def _phase(self, name: str) -> None:
        if self._watched is not None:
            self._watched.phase = name

    def _count_down(self, arrays: ArrayRecord) -> None:
        self.history[-1].down_bytes += wire.num_bytes(arrays) * len(self._asked)

    def first_fresh(self, partition: int, round_: int) -> int:
        """Return the first round whose edits a client still has to contribute in a round."""
        done = [record.round for record in self.history if partition in record.merged]
        return max((number for number in done if number < round_), default=0) + 1

    def _order(self, round_: int, exchange: int, sweep: int = 0) -> wire.TrainOrder:
        return wire.TrainOrder(
            spec=self.plan.spec,
            variant=f"{self.label} {self.plan.spec.editor}",
            round=round_,
            sweep=sweep,
            exchange=exchange,
            rounds=self.plan.rounds,
            settings=self.plan.settings,
            reply=self.reply,
            pooled=self.pooled,
            encoding=self.plan.encoding,
            dtype=self._wire_dtype,
            round_state=self._sweep_state.fingerprint,
            on_base=self.reads_base(sweep, exchange),
            cumulative=self.runs_all_rounds,
            options=self.options,
            first=round_,
        )

    @property
    def _wire_dtype(self) -> str:
        exact = self.plan.dtype == "auto" and self.plan.state_dtype == torch.float64
        return "float64" if exact else self.plan.dtype

    def _leave_out(self, node: Node, why: str, record: RoundRecord) -> None:
        record.left_out[node.partition] = why
        self._say(f"client {node.partition} is left out: {why}")

    def _evaluate_messages(
        self, round_: int, grid: Grid, state: EditState | None = None
    ) -> list[Message]:
        self._asked = list(self._known_nodes(grid))
        self._phase(
            f"{self.label}: evaluate, round {round_}"
            if state is None
            else "evaluate the base model"
        )
        content = wire.write_order(self._order(round_, 0), self.state if state is None else state)
        if self.history and state is None:
            self._count_down(content.array_records["state"])
        return [
            Message(content, node.node_id, self.judging, group_id=str(round_))
            for node in self._asked
        ]

    def _collect_measurements(
        self, replies: Sequence[Message], record: RoundRecord
    ) -> MetricRecord | None:
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        for node in self._asked:
            try:
                reply = good_reply(by_node.get(node.node_id), self.timeout)
                found = wire.read_groups(reply.content)
                if wire.OWN not in found:
                    raise PayloadError("the reply holds no measurements of the client's own edits")
                most = max((count for _, _, count in found[wire.OWN].values()), default=0)
                if most > node.edits:
                    raise PayloadError(f"{most} records measured of {node.edits} announced")
                note_costs(reply, record)
            except PayloadError as error:
                self._leave_out(node, f"evaluation: {error}", record)
                continue
            record.clients[node.partition] = found.pop(wire.OWN)
            for group, sums in found.items():
                record.groups.setdefault(group, {})[node.partition] = sums
        if len(record.clients) < self.plan.needed_clients:
            raise RunError(
                f"evaluation: {len(record.clients)} good replies of {len(self._asked)}, "
                f"{self.plan.needed_clients} are needed. "
                + "; ".join(f"client {i}: {why}" for i, why in sorted(record.left_out.items()))
            )
        pooled = wire.add_sums(list(record.clients.values()))
        means = {name: 100 * total / n for name, (total, _, n) in pooled.items() if n}
        return MetricRecord({name: float(value) for name, value in means.items()})

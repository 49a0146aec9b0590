"""CollabEdit: merge the sufficient statistics, solve once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from typing import Any, ClassVar

import torch
from flwr.app import RecordDict
from torch import Tensor

from fleke_flwr import wire
from fleke_flwr.errors import ConfigError, PayloadError, StatisticsError
from fleke_flwr.linalg import demanded, solve_group
from fleke_flwr.state import EditState
from fleke_flwr.strategies.base import EditStrategy
from fleke_flwr.strategies.conflict import Settlement
from fleke_flwr.strategies.kept_sums import KeptSums, Share
from fleke_flwr.strategies.memory import Memory
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.overlap import KeySpaces
from fleke_flwr.strategies.packing import pack_groups, unpack_groups
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.strategies.pool import Pool
from fleke_flwr.types import (
    EditPayload,
    LayerStatistics,
    LayerUpdate,
    add_updates,
    group_modules,
)


class CollabEdit(EditStrategy):
    """Non-destructive merging: the result is the edit of all clients' requests pooled.

    Source: CollabEdit (arXiv 2410.09508), eq. 3 and 12, in the additive form
    ``Delta = (sum_i B_i)(C + sum_i S_i)^-1``. Exact for every mode but ``local_sequential``.

    Over rounds there is a memory (``fleke_flwr.strategies.memory``). Inside a round every further
    sweep reads keys and residuals again, with targets optimised again, and solves for the *total*
    update of the round, ``Delta_new = sum_i (B_i + Delta S_i) (C + sum_i S_i)^-1``: the prior then
    weighs the whole update however many sweeps there are.

    Departs from the released code: no inverse, no client updates multiplied back into sums, any
    number of layers, clients and rounds, the same prior for everybody in a round.

    Parameters
    ----------
    plan, nodes
        See :class:`EditStrategy`.

    Raises
    ------
    ConfigError
        If ``memory`` is ``statistics`` in a mode whose statistics are not the base model's.
    """

    solves: ClassVar[bool] = True

    def __init__(self, plan: Plan, nodes: Sequence[Node] | None = None) -> None:
        if plan.memory == "statistics" and plan.spec.mode == "local_sequential":
            raise ConfigError(
                "memory = 'statistics' adds up what is read on the base model, and in mode "
                "'local_sequential' every client reads on a model of its own; choose another mode"
            )
        if plan.conflict.policy and plan.memory == "statistics" and plan.sweeps > 1:
            raise ConfigError(
                "conflict.policy takes edits of earlier rounds out of the sums of memory = "
                "'statistics', which sweeps = "
                f"{plan.sweeps} has read on edited models; set sweeps to 1"
            )
        super().__init__(plan, nodes)
        self.memory = Memory(plan.memory, plan.beta0, plan.beta1)
        self.spaces = KeySpaces(plan)
        self.running: dict[str, LayerStatistics] = {}
        self._shares: list[Share] = []
        self._round = 0
        self._shared = self._reference = self.state
        self._change: dict[str, LayerUpdate] = {}

    @property
    def replays(self) -> bool:
        """Whether a round that changes has to be run again from its first layer on."""
        return self.exchanges > 1

    @property
    def _starts_from_base(self) -> bool:
        return self.plan.memory == "statistics"

    @property
    def runs_all_rounds(self) -> bool:
        """Whether statistics of earlier rounds cannot be kept, as behind other layers' updates."""
        return self._starts_from_base and self.sweep_length > 1

    def reads_base(self, sweep: int, exchange: int) -> bool:
        """Statistics that add up over rounds are the base model's, until a sweep reads again."""
        return self._starts_from_base and sweep == 0 and exchange == 0

    def open_round(self, round_: int) -> None:
        """Go to the state that this round's update is counted from, also when it runs again."""
        super().open_round(round_)
        if round_ != self._round:
            self._round, self._shared = round_, self.state
            base = EditState(self.plan.base, round_ - 1)
            self._reference = base if self._starts_from_base else self.state
        self.state = self._reference
        self.running, self._change = {}, {}
        self.spaces.clear()

    def close_round(self, round_: int) -> None:
        """Settle conflicts, then keep for later rounds what the memory keeps."""
        if self.plan.conflict.policy and not self.pooled:
            Settlement(self, round_).run()
        super().close_round(round_)
        self.history[-1].overlap = self.spaces.shared()
        self.history[-1].contributors = sorted(self.spaces.bases)
        if not self.runs_all_rounds:
            self.memory.close(self.running)

    def sent_state(self, exchange: int) -> EditState:
        """Send the shared model where clients compare with it, though they read on the base."""
        compares = exchange == 0 and self.plan.watches_overlap
        return self._shared if compares else self.state

    def gather(self, payloads: Iterator[EditPayload]) -> Sequence[EditPayload]:
        """Add the contributions up as they come in, so that none has to be kept."""
        pool = Pool()
        for payload in payloads:
            if not self.running:
                self.spaces.add(self.contributors[-1], payload)
            self._shares.append(Share.of(self._round, self.contributors[-1], payload.statistics))
            pool.add(payload)
            del payload
        return pool.contents()

    def next_updates(self, payloads: Sequence[EditPayload]) -> Mapping[str, LayerUpdate]:
        """Return the reference's updates and the round's total change."""
        groups = payloads[0].statistics
        self.running.update({name: self._demanded(name, group) for name, group in groups.items()})
        return self._solved(groups)

    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        """Add the statistics of every group and solve the pooled ridge problem."""
        updates: dict[str, LayerUpdate] = {}
        for group in payloads[0].statistics:
            statistics = reduce(add, (payload.statistics[group] for payload in payloads))
            modules = group_modules(group)
            priors = [self.plan.priors[module] for module in modules]
            solved = solve_group(statistics, priors, self.plan.spec.mode == "anticipated")
            updates.update(zip(modules, solved, strict=True))
        return updates

    @property
    def kept_sums(self) -> KeptSums | None:
        """Return what the model was solved from, if all of it was read on the base model.

        Then edits can be withdrawn later without being optimised again. Not after conflicts were
        settled, which leaves in the sums what no client has contributed as a whole, and not where
        a fusion rule has made another model of them.
        """
        alone = self.exchanges == 1 and self.plan.spec.mode != "local_sequential"
        summed = self.plan.memory == "statistics" or self.plan.rounds == 1
        settled = any(record.conflicts.get("strengthened") for record in self.history)
        if self.pooled or settled or self.plan.fusion or not (alone and summed):
            return None
        sums = self.memory.past if self.plan.memory == "statistics" else self.running
        return KeptSums(sums, tuple(self._shares)) if sums else None

    def remembered(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return what the memory keeps, and whose part of the sums is where."""
        # A single round's sums serve withdrawals alone, for which dense ones would be large.
        single = self.plan.rounds == 1 and self.memory.kind == "none"
        factored = all(statistics.is_factored for statistics in self.running.values())
        alone = self.running if single and factored else {}
        tensors: dict[str, Tensor] = {}
        about: dict[str, Any] = {"shares": [asdict(share) for share in self._shares]}
        for name, groups in (("past", self.memory.past), ("running", alone)):
            found, about[name] = pack_groups(groups)
            tensors |= {f"{name}:{key}": tensor for key, tensor in found.items()}
        return tensors, about

    def remember(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take the memory over."""
        self._shares = [Share(**share) for share in about["shares"]]
        self.memory.past, self.running = (
            unpack_groups(
                {
                    key.removeprefix(f"{name}:"): tensor
                    for key, tensor in tensors.items()
                    if key.startswith(f"{name}:")
                },
                about[name],
            )
            for name in ("past", "running")
        )

    def order_content(self, round_: int, part: str = wire.ALL_EDITS, first: int = 0) -> RecordDict:
        """Return an order outside the exchanges, with the state that it refers to."""
        order = replace(self._order(round_, 0), part=part, first=first or round_)
        return wire.write_order(order, self.state if part == wire.ALL_EDITS else self._reference)

    def amend(self, round_: int, part: str, nodes: Sequence[Node]) -> None:
        """Ask clients for what they take back or add, and put it into the running sums."""
        place = replace(self._order(round_, 0), part=part).place
        expected = replace(self._expected(0, self._reference), place=place)

        def order(node: Node) -> RecordDict:
            return self.order_content(round_, part, self.first_fresh(node.partition, round_))

        for node, reply in self.ask(nodes, "train.edit", order):
            try:
                payload = wire.read_payload(reply.content, expected)
                self.check_bounds(node, payload)
                self.running = self._amended(part, payload.statistics)
            except PayloadError as error:
                self.leave_out(node, f"{part}: {error}")

    def _amended(
        self, part: str, changes: Mapping[str, LayerStatistics]
    ) -> dict[str, LayerStatistics]:
        """Return the running sums with a change; refuse to take out what was never put in."""
        amended = dict(self.running)
        for group, change in changes.items():
            taken_back = part == wire.WITHDRAWN
            amended[group] = amended[group] - change if taken_back else amended[group] + change
        if part == wire.WITHDRAWN:
            try:
                self._whole(amended)
            except StatisticsError as error:
                raise PayloadError(str(error)) from error
        return amended

    def settled(self, round_: int) -> None:
        """Solve the running sums again."""
        self.state = EditState(self.plan.base, round_, self._solved(self.running))

    def replay(self, round_: int) -> None:
        """Run a round again from its first exchange on."""
        assert self._watched is not None  # rounds run inside start
        for exchange in range(self.exchanges):
            messages = self.order_edits(round_, exchange, self._watched)
            replies = self._watched.send_and_receive(messages, timeout=self.timeout)
            self.take_edits(round_, exchange, replies)

    def _solved(self, groups: Iterable[str]) -> Mapping[str, LayerUpdate]:
        self._change.update(self._whole({group: self.running[group] for group in groups}))
        return add_updates(self._reference.updates, self.narrowed(self._change))

    def _whole(self, sums: Mapping[str, LayerStatistics]) -> Mapping[str, LayerUpdate]:
        """Solve running sums together with what the memory knows."""
        systems = {group: self.memory.system(group, found) for group, found in sums.items()}
        spec = self.plan.spec
        whole = EditPayload(
            self.plan.base, self.state.fingerprint, spec.editor, spec.mode, 0, systems
        )
        return self.merge([whole], self.state)

    def _demanded(self, group: str, statistics: LayerStatistics) -> LayerStatistics:
        """Return what the round's total update is asked for: the rest and what it gives now."""
        now = [self._change[module] for module in group_modules(group) if module in self._change]
        if not now:
            return statistics
        return demanded(statistics, LayerUpdate(torch.cat([u.dense() for u in now], dim=1)))

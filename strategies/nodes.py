"""Which nodes take part: found by ``query.describe`` messages, ordered by partition."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fleke_flwr import __version__
from fleke_flwr.errors import RunError

_POLL_SECONDS = 0.2
_AGAIN_SECONDS = 5.0
_NODE_UNAVAILABLE = 5  # ErrorCode.NODE_UNAVAILABLE, which Flower does not export


@dataclass(frozen=True)
class Node:
    """One connected client.

    Parameters
    ----------
    node_id : int
        Flower's identifier, good for this run only.
    partition : int
        The client's own number, which orders everything.
    base : str
        Fingerprint of its base model.
    edits : int
        Number of its records.
    version : str
        Its version of fleke-flwr.
    own_data : bool
        Whether it brought its own records, as in a deployment.
    """

    node_id: int
    partition: int
    base: str
    edits: int
    version: str
    own_data: bool = False


@dataclass
class RollCall:
    """Finds out who is there, at the start and again before every round.

    A node that cannot take part is named and asked again next time: it may have been mended.

    Parameters
    ----------
    base : str
        Fingerprint of the base model that all must hold.
    wanted, needed : int
        How many clients are waited for, and how many suffice.
    join_timeout : float
        Seconds to wait for them.
    timeout : float
        Seconds that a node has to describe itself.
    say : Callable[[str], None]
        Is told who is left out and why.
    nodes : list[Node]
        Who takes part, by partition.
    refused : dict[int, str]
        Who does not, by node, with the reason.
    """

    base: str
    wanted: int
    needed: int
    join_timeout: float
    timeout: float
    say: Callable[[str], None]
    nodes: list[Node] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    _unreached: set[int] = field(default_factory=set, init=False)

    def first(self, grid: Grid) -> list[Node]:
        """Wait for the clients and return those that can take part, by partition.

        Raises
        ------
        RunError
            If they are fewer than needed, with the reason for everyone who is left out.
        """
        deadline = time.monotonic() + self.join_timeout
        self.nodes = self._joined([], self._described(grid, self._present(grid, deadline)))
        while self._unreached and len(self.nodes) < self.wanted and time.monotonic() < deadline:
            # A node that died and comes back is listed before it can be reached.
            time.sleep(min(_AGAIN_SECONDS, self.join_timeout))
            again = sorted(self._unreached)
            self.nodes = self._joined(self.nodes, self._described(grid, again))
        if len(self.nodes) < self.needed:
            reasons = [f"node {node_id}: {why}" for node_id, why in self.refused.items()]
            raise RunError(
                f"{len(self.nodes)} of {self.wanted} clients can take part and {self.needed} are "
                f"needed; nothing was edited. {'; '.join(reasons)}"
            )
        return self.nodes

    def again(self, grid: Grid) -> list[Node]:
        """Return those who have come since."""
        present = set(grid.get_node_ids())
        strangers = present - {node.node_id for node in self.nodes}
        if not strangers:
            return []
        # Who is gone makes room: a restarted client may come back as another node.
        stay = [node for node in self.nodes if node.node_id in present]
        gone = [node for node in self.nodes if node.node_id not in present]
        found = self._joined(stay, self._described(grid, sorted(strangers)))
        taken = {node.partition for node in found}
        back = found + [node for node in gone if node.partition not in taken]
        self.nodes = sorted(back, key=lambda node: node.partition)
        return [node for node in found if node.node_id in strangers]

    def _present(self, grid: Grid, deadline: float) -> list[int]:
        """Wait until all are there, or time is up."""
        while True:
            node_ids = list(grid.get_node_ids())
            if len(node_ids) >= self.wanted:
                return node_ids
            if time.monotonic() >= deadline:
                break
            time.sleep(min(_POLL_SECONDS, self.join_timeout))
        found = f"{len(node_ids)} of {self.wanted} clients connected within {self.join_timeout:g} s"
        if len(node_ids) < self.needed:
            raise RunError(
                f"{found} and {self.needed} are needed; start the missing nodes, or lower "
                "clients or min-clients"
            )
        self.say(f"{found}; going on with them, others may join later")
        return node_ids

    def _described(self, grid: Grid, node_ids: Sequence[int]) -> list[Node]:
        messages = [
            Message(RecordDict({"config": ConfigRecord()}), node_id, "query.describe")
            for node_id in node_ids
        ]
        waiting, found = set(node_ids), []
        self._unreached = set()
        for reply in grid.send_and_receive(messages, timeout=self.timeout):
            node_id = reply.metadata.src_node_id
            waiting.discard(node_id)
            if reply.has_error() and reply.error.code == _NODE_UNAVAILABLE:
                self._unreached.add(node_id)
            try:
                node = _read(reply)
            except _Unfit as unfit:
                self._refuse(node_id, str(unfit))
                continue
            if why := self._unfit(node):
                self._refuse(node_id, f"client {node.partition}: {why}")
                continue
            found.append(node)
        for node_id in sorted(waiting):
            self._refuse(node_id, f"did not describe itself within {self.timeout:g} s")
        return found

    def _unfit(self, node: Node) -> str:
        if node.version != __version__:
            return (
                f"runs fleke-flwr {node.version} and the server {__version__}; "
                "install the same version on all nodes"
            )
        if node.base != self.base:
            return (
                f"holds another base model, {node.base}, and the server {self.base}; "
                "all must load the same weights and tokenizer"
            )
        if node.partition >= self.wanted:
            return f"its partition-id is beyond those of clients = {self.wanted}"
        return ""

    def _joined(self, known: Sequence[Node], fresh: Sequence[Node]) -> list[Node]:
        """Put nodes in order; of two that claim one partition, none can be preferred."""
        claims: dict[int, list[Node]] = {}
        for node in (*known, *fresh):
            claims.setdefault(node.partition, []).append(node)
        joined = []
        for partition, claimants in sorted(claims.items()):
            if len(claimants) == 1:
                joined += claimants
                self.refused.pop(claimants[0].node_id, None)
                continue
            for node in claimants:
                if node in known:
                    joined.append(node)
                else:
                    self._refuse(
                        node.node_id,
                        f"two clients claim partition {partition}; "
                        "give every node its own partition-id",
                    )
        return joined

    def _refuse(self, node_id: int, why: str) -> None:
        if self.refused.get(node_id) != why:
            self.say(f"node {node_id} is left out: {why}")
        self.refused[node_id] = why


class _Unfit(Exception):
    """A node did not describe itself as it should."""


def _read(reply: Message) -> Node:
    if reply.has_error():
        raise _Unfit(f"could not describe itself: {reason(reply)}")
    try:
        content = json.loads(str(reply.content.config_records["meta"]["json"]))
        node = Node(
            node_id=reply.metadata.src_node_id,
            partition=content["partition"],
            base=content["base"],
            edits=content["edits"],
            version=content["version"],
            own_data=content["own_data"],
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _Unfit(f"described itself in another form ({_short(repr(error))})") from error
    numbers, texts = (node.partition, node.edits), (node.base, node.version)
    if (
        any(type(number) is not int or not 0 <= number <= 2**31 for number in numbers)
        or not all(isinstance(text, str) and len(text) <= 64 for text in texts)
        or type(node.own_data) is not bool
    ):
        raise _Unfit("described itself with something else than numbers and names")
    return node


def reason(reply: Message) -> str:
    """Return the last line of an error reply, which is the one that says what happened."""
    lines = [line.strip() for line in (reply.error.reason or "").splitlines() if line.strip()]
    return _short(lines[-1]) if lines else f"error code {reply.error.code} without a reason"


def _short(text: str) -> str:
    """Return what another machine wrote as it can be shown: in one line of bearable length."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= 500 else f"{shown[:500]}..."

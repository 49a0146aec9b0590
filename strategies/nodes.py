"""Which nodes take part: found by a ``query.describe`` message, ordered by partition."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fleke_flwr.errors import RunError

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Node:
    """One connected client.

    Parameters
    ----------
    node_id : int
        Flower's random identifier, good for this run only.
    partition : int
        The client's own number, which orders everything.
    base : str
        Fingerprint of its base model.
    edits : int
        Number of its records.
    version : str
        Its version of fleke-flwr.
    """

    node_id: int
    partition: int
    base: str
    edits: int
    version: str


def discover(grid: Grid, wanted: int, timeout: float) -> list[Node]:
    """Wait for ``wanted`` nodes, ask each to describe itself, return them by partition.

    Raises
    ------
    RunError
        If too few nodes connect in time, a node cannot describe itself, or two nodes claim the
        same partition.
    """
    node_ids = _wait_for_nodes(grid, wanted, timeout)
    messages = [
        Message(RecordDict({"config": ConfigRecord()}), node_id, "query.describe")
        for node_id in node_ids
    ]
    replies = grid.send_and_receive(messages, timeout=timeout)
    nodes = [_read(reply) for reply in replies]
    if len(nodes) < wanted:
        raise RunError(
            f"{len(nodes)} of {wanted} clients described themselves within {timeout:g} s; "
            "look at the logs of the others, or raise timeout"
        )
    nodes.sort(key=lambda node: node.partition)
    for first, second in pairwise(nodes):
        if first.partition == second.partition:
            raise RunError(
                f"two clients claim partition {first.partition}; "
                "give every node its own partition-id"
            )
    return nodes


def _wait_for_nodes(grid: Grid, wanted: int, timeout: float) -> list[int]:
    deadline = time.monotonic() + timeout
    while True:
        node_ids = list(grid.get_node_ids())
        if len(node_ids) >= wanted:
            return node_ids
        if time.monotonic() > deadline:
            raise RunError(
                f"{len(node_ids)} of {wanted} clients connected within {timeout:g} s; "
                "start the missing nodes, or lower clients"
            )
        time.sleep(_POLL_SECONDS)


def _read(reply: Message) -> Node:
    if reply.has_error():
        raise RunError(f"a client could not describe itself: {reason(reply)}; nothing was edited")
    content = json.loads(str(reply.content.config_records["meta"]["json"]))
    return Node(
        node_id=reply.metadata.src_node_id,
        partition=int(content["partition"]),
        base=str(content["base"]),
        edits=int(content["edits"]),
        version=str(content["version"]),
    )


def reason(reply: Message) -> str:
    """Return the last line of an error reply, which is the one that says what happened."""
    lines = [line.strip() for line in (reply.error.reason or "").splitlines() if line.strip()]
    return lines[-1] if lines else f"error code {reply.error.code} without a reason"

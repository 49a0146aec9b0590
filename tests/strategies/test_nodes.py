"""Finding the clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fleke_flwr.errors import RunError
from fleke_flwr.strategies.nodes import discover
from tests.strategies.memory_grid import MemoryGrid


def grid_of(partitions: list[int], broken: int | None = None) -> MemoryGrid:
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        place = int(context.node_config["place"])
        if place == broken:
            raise ValueError("no such model")
        content = {"partition": partitions[place], "base": "b", "edits": 2, "version": "0"}
        meta = ConfigRecord({"json": json.dumps(content)})
        return Message(RecordDict({"meta": meta}), reply_to=message)

    nodes: list[Any] = [{"place": place} for place in range(len(partitions))]
    return MemoryGrid(app, {}, nodes)


def test_nodes_come_in_the_order_of_their_partitions() -> None:
    assert [node.partition for node in discover(grid_of([3, 0, 2, 1]), 4, 1.0)] == [0, 1, 2, 3]


def test_a_partition_claimed_twice_is_refused() -> None:
    with pytest.raises(RunError, match="two clients claim partition 1"):
        discover(grid_of([1, 1, 0]), 3, 1.0)


def test_missing_nodes_end_the_waiting_with_a_count() -> None:
    with pytest.raises(RunError, match=r"2 of 3 clients connected within 0.1 s"):
        discover(grid_of([0, 1]), 3, 0.1)


def test_a_node_that_cannot_describe_itself_is_reported_with_its_reason() -> None:
    with pytest.raises(RunError, match="no such model"):
        discover(grid_of([0, 1], broken=1), 2, 1.0)

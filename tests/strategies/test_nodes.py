"""Finding the clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fleke_flwr import __version__
from fleke_flwr.errors import RunError
from fleke_flwr.strategies.nodes import RollCall
from tests.strategies.memory_grid import MemoryGrid


def good(partition: int, **changes: Any) -> dict[str, Any]:
    content = {"partition": partition, "base": "b", "edits": 2, "version": __version__}
    return {**content, "own_data": False, **changes}


def grid_of(contents: list[Any]) -> MemoryGrid:
    """Return a grid whose nodes describe themselves as told; ``None`` raises."""
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        content = contents[int(context.node_config["place"])]
        if content is None:
            raise ValueError("no such model")
        meta = ConfigRecord({"json": json.dumps(content)})
        return Message(RecordDict({"meta": meta}), reply_to=message)

    nodes: list[Any] = [{"place": place} for place in range(len(contents))]
    return MemoryGrid(app, {}, nodes)


def roll_of(wanted: int, needed: int | None = None) -> tuple[RollCall, list[str]]:
    said: list[str] = []
    return RollCall("b", wanted, needed or wanted, 0.1, 1.0, said.append), said


def test_nodes_come_in_the_order_of_their_partitions() -> None:
    roll, said = roll_of(4)
    nodes = roll.first(grid_of([good(3), good(0), good(2), good(1)]))
    assert [node.partition for node in nodes] == [0, 1, 2, 3]
    assert said == []


def test_missing_nodes_end_the_waiting_with_a_count() -> None:
    with pytest.raises(RunError, match=r"2 of 3 clients connected within 0.1 s and 3 are needed"):
        roll_of(3)[0].first(grid_of([good(0), good(1)]))


def test_the_run_starts_without_those_who_are_not_needed() -> None:
    roll, said = roll_of(3, needed=2)
    assert [node.partition for node in roll.first(grid_of([good(0), good(1)]))] == [0, 1]
    assert said == [
        "2 of 3 clients connected within 0.1 s; going on with them, others may join later"
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "could not describe itself: ValueError: no such model"),
        (good(2, base="other"), "client 2: holds another base model, other, and the server b"),
        (good(2, version="0.0.1"), "client 2: runs fleke-flwr 0.0.1 and the server"),
        (good(7), "client 7: its partition-id is beyond those of clients = 3"),
        (good(-1), "something else than numbers and names"),
        (good(2, edits=True), "something else than numbers and names"),
        (good(2, edits=float("nan")), "something else than numbers and names"),
        ({"partition": 2}, "described itself in another form (KeyError('base'))"),
        ([1, 2], "described itself in another form (TypeError"),
        (good(1), "two clients claim partition 1"),
    ],
)
def test_a_node_that_does_not_fit_is_named_and_left_out(content: Any, reason: str) -> None:
    contents = [good(0), good(1), content]
    roll, said = roll_of(3, needed=1)
    nodes = roll.first(grid_of(contents))
    assert 0 in [node.partition for node in nodes]
    assert 2 not in [node.partition for node in nodes]
    assert any(reason in text for text in said)
    strict, _ = roll_of(3)
    with pytest.raises(RunError, match="of 3 clients can take part and 3 are needed") as error:
        strict.first(grid_of(contents))
    assert reason in str(error.value)


def test_of_two_that_claim_one_partition_none_is_preferred() -> None:
    roll, _ = roll_of(3, needed=1)
    assert [n.partition for n in roll.first(grid_of([good(1), good(1), good(0)]))] == [0]


def test_who_comes_late_joins_and_who_was_mended_comes_back() -> None:
    contents: list[Any] = [good(0), None, good(2)]
    grid = grid_of(contents)
    late = dict(grid.contexts)
    absent = max(late)
    del grid.contexts[absent]
    roll, _ = roll_of(3, needed=1)
    assert [node.partition for node in roll.first(grid)] == [0]
    assert roll.again(grid) == []
    contents[1] = good(1)
    grid.contexts[absent] = late[absent]
    assert sorted(node.partition for node in roll.again(grid)) == [1, 2]
    assert [node.partition for node in roll.nodes] == [0, 1, 2]
    assert roll.refused == {}


def test_a_client_that_comes_back_as_another_node_takes_its_own_place() -> None:
    contents = [good(0), good(1), good(1)]
    grid = grid_of(contents)
    ids = sorted(grid.contexts)
    third = grid.contexts.pop(ids[2])
    roll, _ = roll_of(2)
    roll.first(grid)
    del grid.contexts[ids[1]]
    grid.contexts[ids[2]] = third
    assert [node.node_id for node in roll.again(grid)] == [ids[2]]
    assert [node.node_id for node in roll.nodes] == [ids[0], ids[2]]


def test_a_node_that_is_listed_before_it_can_be_reached_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fleke_flwr.strategies.nodes._AGAIN_SECONDS", 0.01)
    grid = grid_of([good(0), good(1)])
    answer, refused = grid._answer, []

    def unavailable(message: Message) -> Message | None:
        if message.metadata.dst_node_id == max(grid.contexts) and len(refused) < 2:
            refused.append(message)
            return Message(Error(5, "Node Unavailable"), reply_to=message)
        return answer(message)

    grid._answer = unavailable  # type: ignore[method-assign]  # a test double
    roll = RollCall("b", 2, 2, 5.0, 1.0, lambda _: None)
    assert [node.partition for node in roll.first(grid)] == [0, 1]
    assert len(refused) == 2
    assert roll.refused == {}

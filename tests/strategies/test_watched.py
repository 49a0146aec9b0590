"""Replies come one by one, in the order of the messages, whoever is fastest."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fleke_flwr.progress import Silent
from fleke_flwr.strategies import watched
from fleke_flwr.strategies.watched import WatchedGrid


class SlowGrid(Grid):
    """Answer message ``i`` of ``n`` so many polls after it was sent; ``None`` is never."""

    def __init__(self, polls: list[int | None]) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
        self.polls = polls
        self.sent: list[int] = []
        self.asked: list[list[str]] = []
        self.alive: list[weakref.ref[Message]] = []

    def set_run(self, run: Any) -> None:
        raise AssertionError("not needed")

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise AssertionError("use Message(...)")

    def get_node_ids(self) -> Iterable[int]:
        return range(len(self.polls))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.sent.extend(message.metadata.dst_node_id for message in messages)
        return [f"m{node}" for node in self.sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = list(message_ids)
        assert not any(reply() for reply in self.alive)
        self.asked.append(asked)
        return [
            self._reply(message_id)
            for message_id in asked
            if (wait := self.polls[int(message_id[1:])]) is not None and len(self.asked) > wait
        ]

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        raise AssertionError("the watched grid pulls for itself")

    def _reply(self, message_id: str) -> Message:
        content = RecordDict({"meta": ConfigRecord({"of": message_id})})
        reply = Message(content, int(message_id[1:]), "train.edit")
        self.alive.append(weakref.ref(reply))
        return reply


class Steps(Silent):
    """Progress that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def start(self, phase: str, total: int) -> None:
        self.told.append((phase, total))

    def advance(self, phase: str, amount: int = 1) -> None:
        self.told.append((phase, -amount))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_POLL_SECONDS", 0.001)


def messages(count: int) -> list[Message]:
    return [Message(RecordDict(), node, "train.edit") for node in range(count)]


def origin(reply: Message) -> str:
    return str(reply.content.config_records["meta"]["of"])


def test_replies_come_in_the_order_of_the_messages_whoever_is_fastest() -> None:
    grid = SlowGrid([6, 3, 0])
    found = WatchedGrid(grid, Silent()).send_and_receive(messages(3), timeout=30)
    assert list(map(origin, found)) == ["m0", "m1", "m2"]
    # While the first is awaited, the others are left where they are.
    assert grid.asked == [["m0"]] * 7 + [["m1"], ["m2"]]


def test_messages_are_sent_before_anybody_asks_for_a_reply() -> None:
    grid, steps = SlowGrid([0, 0]), Steps()
    watching = WatchedGrid(grid, steps)
    watching.phase = "edit"
    replies = watching.send_and_receive(iter(messages(2)), timeout=30)
    watching.phase = "evaluate"
    assert (grid.sent, grid.asked, steps.told) == ([0, 1], [], [("edit", 2)])
    next(iter(replies))
    assert steps.told[1:] == [("edit", -1)]
    assert [origin(reply) for reply in replies] == ["m1"]
    assert steps.told[1:] == [("edit", -1)] * 2


def test_a_reply_is_gone_before_the_next_is_pulled() -> None:
    grid = SlowGrid([0] * 4)
    replies = iter(WatchedGrid(grid, Silent()).send_and_receive(messages(4)))
    for place in range(4):
        # The grid refuses to hand out a reply while another is alive.
        assert origin(next(replies)) == f"m{place}"
    assert next(replies, None) is None


def test_who_never_answers_costs_the_others_nothing() -> None:
    grid = SlowGrid([None, 0, None, 0])
    started = time.monotonic()
    replies = WatchedGrid(grid, Silent()).send_and_receive(messages(4), timeout=0.2)
    assert list(map(origin, replies)) == ["m1", "m3"]
    assert 0.2 <= time.monotonic() - started < 2
    # After the deadline everybody is asked once more, and nobody is waited for.
    assert grid.asked[-3:] == [["m1"], ["m2"], ["m3"]]


def test_after_the_deadline_nothing_is_waited_for() -> None:
    grid = SlowGrid([None, 0])
    replies = WatchedGrid(grid, Silent()).send_and_receive(messages(2), timeout=0.0)
    assert list(map(origin, replies)) == ["m1"]
    assert grid.asked == [["m0"], ["m1"]]


def test_a_message_that_flower_refused_has_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = SlowGrid([0, 0, 0])
    monkeypatch.setattr(grid, "push_messages", lambda _: ["m0", None, "m2"])
    replies = WatchedGrid(grid, Silent()).send_and_receive(messages(3))
    assert list(map(origin, replies)) == ["m0", "m2"]


def test_nothing_sent_is_nothing_received() -> None:
    steps = Steps()
    assert list(WatchedGrid(SlowGrid([]), steps).send_and_receive([])) == []
    assert steps.told == []


def test_a_node_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_LOOK_SECONDS", 0.01)
    grid = SlowGrid([0, None, 0])
    monkeypatch.setattr(grid, "get_node_ids", lambda: [0, 2])
    started = time.monotonic()
    replies = WatchedGrid(grid, Silent()).send_and_receive(messages(3), timeout=60)
    assert list(map(origin, replies)) == ["m0", "m2"]
    assert time.monotonic() - started < 30


def test_what_the_superlink_says_of_a_node_counts_as_the_node_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = SlowGrid([0, 0])

    def unavailable(message_ids: Iterable[str]) -> Iterable[Message]:
        asked = messages(2)[int(next(iter(message_ids))[1:])]
        reply = Message(Error(5, "Node Unavailable"), reply_to=asked)
        reply.metadata.__dict__["_src_node_id"] = 1
        return [reply]

    monkeypatch.setattr(grid, "pull_messages", unavailable)
    replies = list(WatchedGrid(grid, Silent()).send_and_receive(messages(2), timeout=1))
    assert [reply.metadata.src_node_id for reply in replies] == [0, 1]
    assert [reply.error.reason for reply in replies] == ["Node Unavailable"] * 2

"""An in-memory Grid that drives the real ClientApp, message by message, without Ray.

Two private details of flwr 1.41 are needed: a task identity before a Message is made outside a run,
and a message id on outgoing messages, to which replies refer. They are kept here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

Tamper = Callable[[int, Message, Message], Message | None]


class MemoryGrid(Grid):
    """Answer messages at once by calling the ClientApp with one Context per node.

    Parameters
    ----------
    app : ClientApp
        The app under test.
    run_config : Mapping
        Flat run config, as Flower gives it to every node.
    node_configs : list of Mapping
        One per node; ``partition-id`` and ``num-partitions`` are added.
    order : list of int, optional
        In which order replies come back, by partition.
    tamper : callable, optional
        Gets partition, order and reply and returns another reply, or ``None`` for none at all.
    """

    def __init__(
        self,
        app: ClientApp,
        run_config: Mapping[str, Any],
        node_configs: list[Mapping[str, Any]],
        order: list[int] | None = None,
        tamper: Tamper | None = None,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
        self.app = app
        self.contexts = {
            1000 + 7 * index: Context(
                1,
                1000 + 7 * index,
                {"partition-id": index, "num-partitions": len(node_configs), **node},
                RecordDict(),
                dict(run_config),
            )
            for index, node in enumerate(node_configs)
        }
        self.order = order
        self.tamper = tamper
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """Ignore: there is one run."""

    @property
    def run(self) -> Any:
        """Return nothing: there is one run."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse: deprecated in Flower."""
        raise AssertionError("use Message(...)")

    def get_node_ids(self) -> Iterable[int]:
        """Return node ids in an order that says nothing about partitions."""
        return sorted(self.contexts, key=lambda node: hash(str(node)))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer every message and keep the replies."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            self.sent.append(message)
            reply = self._answer(message)
            if reply is not None:
                self._replies[message.metadata.message_id] = reply
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies, in the wanted order of partitions."""
        found = [self._replies.pop(i) for i in list(message_ids) if i in self._replies]
        if self.order is not None:
            places = {partition: place for place, partition in enumerate(self.order)}
            found.sort(key=lambda reply: places[self._partition(reply.metadata.src_node_id)])
        self.received.extend(found)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull."""
        return self.pull_messages(self.push_messages(messages))

    def _partition(self, node_id: int) -> int:
        return int(self.contexts[node_id].node_config["partition-id"])

    def _answer(self, message: Message) -> Message | None:
        node_id = message.metadata.dst_node_id
        try:
            reply = self.app(message, self.contexts[node_id])
        except Exception as error:
            reply = Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message)
        if self.tamper is not None and message.metadata.message_type != "query.describe":
            return self.tamper(self._partition(node_id), message, reply)
        return reply

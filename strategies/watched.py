"""A Grid that hands out replies one by one, in a fixed order, and polls often.

Flower's own ``send_and_receive`` looks for replies every three seconds, which is most of the time
of a small exchange, and holds all of them at once, which is most of the memory of a large one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fleke_flwr.progress import Progress

_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
_LOOK_SECONDS = 5.0


class WatchedGrid(Grid):
    """Delegate to another grid, handing out replies in the order of the messages.

    A reply is pulled when the one before it has been dealt with, so that who adds replies up never
    holds two, and the sum does not depend on who was fastest. Until then it waits where Flower
    keeps it. A node that is no longer connected is not waited for: Flower takes a node for gone a
    minute or so after its last sign of life.

    Parameters
    ----------
    grid : Grid
        The grid that does the work.
    progress : Progress
        Is told of every reply that is handed out.
    """

    def __init__(self, grid: Grid, progress: Progress) -> None:
        self._grid = grid
        self._progress = progress
        self.phase = ""

    def set_run(self, run: object) -> None:
        """Delegate."""
        self._grid.set_run(run)  # type: ignore[arg-type]  # Run is private in flwr

    @property
    def run(self) -> object:  # type: ignore[override]  # Run is private in flwr
        """Delegate."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Delegate."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Delegate."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Delegate."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Delegate."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send at once; return replies as an iterator, in the order of the messages.

        Parameters
        ----------
        messages : Iterable[Message]
            All are sent before this returns.
        timeout : float or None
            Seconds from now after which no reply is waited for; those that are there then are
            still handed out, the others are left out.

        Returns
        -------
        Iterable[Message]
            To be gone through once.
        """
        sent = list(messages)
        pushed = list(self.push_messages(sent))
        if not pushed:
            return iter(())
        self._progress.start(self.phase, len(pushed))
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = [
            # Flower has no id for a message that it refused.
            (message_id, message)
            for message_id, message in zip(pushed, sent, strict=True)
            if message_id
        ]
        return self._replies(waiting, self.phase, deadline)

    def _replies(
        self, waiting: Sequence[tuple[str, Message]], phase: str, deadline: float | None
    ) -> Iterator[Message]:
        for message_id, message in waiting:
            # No name is given to a reply: it would live on while the next one is pulled.
            yield from (
                _of_its_node(reply, message)
                for reply in self._wait(message_id, message.metadata.dst_node_id, phase, deadline)
            )

    def _wait(
        self, message_id: str, node_id: int, phase: str, deadline: float | None
    ) -> list[Message]:
        """Poll for one reply at growing intervals, and once more at the deadline."""
        pause = _POLL_SECONDS
        looked = time.monotonic()
        late = False
        while True:
            if time.monotonic() - looked >= _LOOK_SECONDS:
                looked = time.monotonic()
                late = node_id not in set(self._grid.get_node_ids())
            late = late or (deadline is not None and time.monotonic() >= deadline)
            arrived = list(self.pull_messages([message_id]))
            if arrived:
                self._progress.advance(phase, len(arrived))
            if arrived or late:
                return arrived
            left = pause if deadline is None else deadline - time.monotonic()
            time.sleep(max(0.0, min(pause, left)))
            pause = min(pause * 1.2, _LONGEST_POLL_SECONDS)


def _of_its_node(reply: Message, message: Message) -> Message:
    """Return the reply of the node that was asked.

    When a node is gone, the SuperLink answers with an error in its own name.
    """
    if reply.has_error() and reply.metadata.src_node_id != message.metadata.dst_node_id:
        return Message(reply.error, reply_to=message)
    return reply

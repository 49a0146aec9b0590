"""A Grid that reports every reply as it arrives and polls often.

Flower's own ``send_and_receive`` looks for replies every three seconds, which is most of the time
of a small exchange.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fleke_flwr.progress import Progress

_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0


class WatchedGrid(Grid):
    """Delegate to another grid, advancing a progress phase per reply.

    Parameters
    ----------
    grid : Grid
        The grid that does the work.
    progress : Progress
        Is told of every reply.
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
        """Send, poll at growing intervals, report each reply, return those that came in time."""
        waiting = set(self.push_messages(list(messages)))
        if not waiting:
            return []
        self._progress.start(self.phase, len(waiting))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        pause = _POLL_SECONDS
        while waiting and (deadline is None or time.monotonic() < deadline):
            arrived = list(self.pull_messages(waiting))
            replies.extend(arrived)
            waiting.difference_update(reply.metadata.reply_to_message_id for reply in arrived)
            if arrived:
                self._progress.advance(self.phase, len(arrived))
            pause = _POLL_SECONDS if arrived else min(pause * 1.2, _LONGEST_POLL_SECONDS)
            if waiting:
                time.sleep(pause)
        return replies

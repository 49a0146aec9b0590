"""Read the event file of a running app and pass its events on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fleke_flwr.progress import Progress


class EventReader:
    """Forward the events that were appended since the last look.

    Parameters
    ----------
    path : Path
        JSON Lines as :class:`fleke_flwr.progress.EventFile` writes them; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def forward(self, progress: Progress) -> None:
        """Pass every complete new event on; a line still being written waits for the next look."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        complete = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            _tell(json.loads(line), progress)


def _tell(event: dict[str, Any], progress: Progress) -> None:
    if event["event"] == "start":
        progress.start(event["phase"], event["total"])
    elif event["event"] == "advance":
        progress.advance(event["phase"], event["amount"])
    else:
        progress.line(event["text"])

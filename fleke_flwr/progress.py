"""Progress as events, so that a terminal, a log or a file can show it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """Something that is told how far the work has come."""

    def start(self, phase: str, total: int) -> None:
        """Begin a phase of ``total`` units."""

    def advance(self, phase: str, amount: int = 1) -> None:
        """Report ``amount`` more units of a phase as done."""

    def line(self, text: str) -> None:
        """Say one line."""


class Silent:
    """Progress that nobody watches."""

    def start(self, phase: str, total: int) -> None:
        """Ignore the phase."""

    def advance(self, phase: str, amount: int = 1) -> None:
        """Ignore the step."""

    def line(self, text: str) -> None:
        """Ignore the line."""


class EventFile:
    """Progress as JSON Lines in a file that another process may follow.

    An event is an object with ``event`` (``start``, ``advance`` or ``line``), ``time``, and what
    belongs to it: ``phase`` and ``total``, ``phase`` and ``amount``, or ``text``.
    Every event is one short appended write, so several processes may share the file.

    Parameters
    ----------
    path : Path
        The file; its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, phase: str, total: int) -> None:
        """Append a phase."""
        self._write({"event": "start", "phase": phase, "total": total})

    def advance(self, phase: str, amount: int = 1) -> None:
        """Append a step."""
        self._write({"event": "advance", "phase": phase, "amount": amount})

    def line(self, text: str) -> None:
        """Append a line of text."""
        self._write({"event": "line", "text": text})

    def _write(self, event: dict[str, str | int]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "time": round(time.time(), 3)}) + "\n")

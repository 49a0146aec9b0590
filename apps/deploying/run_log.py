"""What the ServerApp printed, as the SuperLink passes it on."""

from __future__ import annotations

import re
from pathlib import Path

from fleke_flwr.progress import Progress

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(INFO|WARNING|ERROR|DEBUG)\s*:\s*")
_ABOUT_THE_COMMAND = ("Using SuperLink:", "Starting logstream")
_ERROR = re.compile(r"[\w.]*(Error|Exception|Exit): \S")
_SHOWN = 3


class RunLog:
    """The copy of a run's log on this machine.

    Parameters
    ----------
    path : Path
        It may not exist yet, and may be begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown = 0

    def forward(self, progress: Progress) -> None:
        """Pass on the complete lines that are new."""
        lines = self._lines()
        for line in lines[self._shown :]:
            progress.line(line)
        self._shown = max(self._shown, len(lines))

    def reason(self) -> str:
        """Return what an exception said, or the last lines where none is to be found."""
        lines = self._lines()
        errors = [line for line in lines if _ERROR.match(line)]
        return errors[-1] if errors else " | ".join(lines[-_SHOWN:])

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        complete = text[: text.rfind("\n") + 1]
        plain = (_LEVEL.sub("", _COLOUR.sub("", line)).rstrip() for line in complete.splitlines())
        return [line for line in plain if line and not line.startswith(_ABOUT_THE_COMMAND)]

"""Where a trace is written: a new directory, or that of an earlier trace."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from fleke_flwr.apps.locating.results import PRESET, SCORES
from fleke_flwr.errors import ConfigError

PAGE, RESULT, FOLDER = "trace.html", "trace.json", "report"


def chosen_directory(chosen: Path | None) -> Path:
    """Return the directory; nothing in it is touched before there is something to write.

    Raises
    ------
    ConfigError
        If the path is a file, or holds something else than a trace.
    """
    directory = chosen or Path("outputs") / f"trace-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = directory.expanduser().resolve()
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--output {directory}: is a file; name a directory")
    held = directory.is_dir() and any(directory.iterdir())
    if held and not (directory / RESULT).is_file():
        raise ConfigError(
            f"--output {directory}: holds something else than a trace; name a new directory"
        )
    return directory


def clear(directory: Path) -> None:
    """Create a directory, or remove what an earlier trace has left in it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (PAGE, PRESET, SCORES, RESULT):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / FOLDER, ignore_errors=True)

"""What the terminal and the page of a trace say alike."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleke_flwr.apps.locating.results import PRESET
from fleke_flwr.data.readings import EMBEDDED


def shown_half(half: float | None) -> str:
    """Return half of an interval, or a dash where a single value has none."""
    return "–" if half is None else f"{half:.3f}"  # noqa: RUF001  # as in the reports' tables


def run_command(content: Mapping[str, Any], directory: Path) -> str:
    """Return the command of a run that edits the traced model in the suggested layers.

    Parameters
    ----------
    content : Mapping[str, Any]
        Content of ``trace.json``.
    directory : Path
        Where the preset lies, from the root, so that the command works everywhere.
    """
    name = content["model"]["name"]
    chosen = [] if name == EMBEDDED else [f"model={name}"]
    return shlex.join(["fleke", "run", "demo", *chosen, f"edit.preset={directory / PRESET}"])


def still_missing(content: Mapping[str, Any]) -> str:
    """Say what has to be filled in before that command works; empty where nothing has."""
    model = content["model"]
    if not model["missing_settings"]:
        return ""
    return (
        f"model {model['name']!r} has no settings of its own for "
        f"{', '.join(model['missing_settings'])}, and layers alone make no run: first fill them in "
        f"in {PRESET}, where they stand as comments"
    )

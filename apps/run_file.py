"""What is written down of a run when it starts, for who has to resume it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleke_flwr.artifacts import read_json, write_json
from fleke_flwr.config import RunConfig, parse_overrides
from fleke_flwr.errors import ConfigError, DataError

RUN_FILE, RUNNING, CHECKPOINT = "run.json", "running.json", "checkpoint.safetensors"
# What a resumed run may change: none of it has a say in the result.
CHANGEABLE = (
    "min-clients",
    "timeout",
    "join-timeout",
    "trackers",
    "resume",
    "output-dir",
    "cache-dir",
)


def note_run(directory: Path, config: RunConfig, federation: str) -> None:
    """Write down what is run and where, for who resumes it."""
    content = {"schema": 1, "federation": federation, "config": config.to_flat()}
    write_json(directory / RUN_FILE, content)


def read_run(directory: Path, overrides: Sequence[str]) -> tuple[RunConfig, str]:
    """Read what :func:`note_run` wrote, to go on with it.

    Parameters
    ----------
    directory : Path
        Of the broken-off run.
    overrides : Sequence[str]
        ``key=value`` pairs; only what has no say in the result may change.

    Returns
    -------
    tuple[RunConfig, str]
        The settings, and the federation; empty for a simulation.

    Raises
    ------
    ConfigError, DataError
        If there is no run, or a setting may not change.
    """
    path = directory / RUN_FILE
    if not path.is_file():
        raise DataError(
            f"{directory}: holds no {RUN_FILE}; name the directory of a run that was started "
            "with fleke run or fleke compare"
        )
    content = read_json(path)
    changes = parse_overrides(overrides)
    config = RunConfig.from_flat({**content["config"], **changes})
    check_same(content["config"], config)
    return replace(config, resume=True), str(content["federation"])


def clear_end(directory: Path) -> None:
    """Remove how a run ended, and what it said, before it goes on."""
    for name in ("done.json", "failure.json", "events.jsonl"):
        (directory / name).unlink(missing_ok=True)


def check_same(old: Mapping[str, Any], config: RunConfig) -> None:
    """Refuse to go on with other settings.

    Raises
    ------
    ConfigError
        Naming those that differ.
    """
    # A key that an older version did not know had no effect, which is what its default means.
    known = {**RunConfig().to_flat(), **old}
    changed = [
        f"{key} was {known[key]!r} and is {value!r}"
        for key, value in config.to_flat().items()
        if key not in CHANGEABLE and known[key] != value
    ]
    if changed:
        raise ConfigError(
            f"a broken-off run cannot go on with other settings ({'; '.join(changed)}); "
            f"only {', '.join(CHANGEABLE[:4])} may change"
        )

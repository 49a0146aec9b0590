"""What a run keeps on disk while it goes on, so that a broken-off one can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleke_flwr.apps.results import read_rows
from fleke_flwr.apps.run_file import CHECKPOINT, RUNNING, check_same
from fleke_flwr.artifacts import read_json, write_json
from fleke_flwr.config import RunConfig
from fleke_flwr.strategies.checkpoint import Checkpoint
from fleke_flwr.strategies.federated import FederatedStrategy
from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.strategies.rounds_json import from_json, to_json


class Checkpoints:
    """The progress of a run, in its directory.

    ``running.json`` holds the settings, the measurements of the base model and the finished
    variants, ``checkpoint.safetensors`` the variant that runs, after its last merged round. Both
    are replaced as a whole, and removed when everything is done.

    Parameters
    ----------
    directory : Path
        Of the run.
    config : RunConfig
        Its settings; with ``resume``, what the directory holds is taken up.

    Attributes
    ----------
    merged : int
        Rounds of the running variant that are on disk.

    Raises
    ------
    ConfigError
        If the directory holds a broken-off run of other settings.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        self._directory = directory
        self.merged = 0
        self._running: dict[str, Any] = {"schema": 1, "config": config.to_flat()}
        self._running |= {"base": {}, "finished": []}
        path = directory / RUNNING
        if config.resume and path.is_file():
            found = read_json(path)
            check_same(found["config"], config)
            self._running |= {"base": found["base"], "finished": found["finished"]}
        else:
            (directory / CHECKPOINT).unlink(missing_ok=True)
        write_json(path, self._running)

    def base(self, key: str, measure: Callable[[], RoundRecord]) -> RoundRecord:
        """Return the measurements of the base model, taken once for each swept value."""
        known = self._running["base"].get(key)
        if known is not None:
            return from_json(known)
        record = measure()
        self._running["base"][key] = to_json(record)
        write_json(self._directory / RUNNING, self._running)
        return record

    def finished(self, variant: str, folder: Path) -> dict[str, Any] | None:
        """Return the row of a variant that was finished before the run broke off."""
        if variant not in self._running["finished"]:
            return None
        return read_rows(folder)[0]

    def finish(self, variant: str) -> None:
        """Note that a variant's results are on disk."""
        self._running["finished"].append(variant)
        write_json(self._directory / RUNNING, self._running)
        (self._directory / CHECKPOINT).unlink(missing_ok=True)

    def watch(self, strategy: FederatedStrategy, variant: str) -> float:
        """Set a strategy to where it was, and keep every round it merges from now on.

        Returns
        -------
        float
            Seconds that it has run before.
        """
        path = self._directory / CHECKPOINT
        spent = 0.0
        if path.is_file():
            checkpoint = Checkpoint.load(path)
            if checkpoint.variant == variant:
                strategy.go_on_from(checkpoint)
                spent = checkpoint.seconds
        started = time.perf_counter()
        self.merged = len(strategy.history)

        def keep() -> None:
            strategy.checkpoint(variant, spent + time.perf_counter() - started).save(path)
            self.merged = len(strategy.history)

        strategy.on_round = keep
        return spent

    def remove(self) -> None:
        """Remove what only a broken-off run needs."""
        for name in (RUNNING, CHECKPOINT):
            (self._directory / name).unlink(missing_ok=True)

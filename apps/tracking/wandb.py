"""Metrics for Weights & Biases: written to disk, and sent only where ``WANDB_MODE`` says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fleke_flwr.apps.trackers import Tracker
from fleke_flwr.values import Scalar

PROJECT = "fleke-flwr"


class WeightsAndBiases(Tracker):
    """Keeps one W&B run per variant below ``RUN/wandb``, grouped by the run's name.

    Offline unless ``WANDB_MODE`` is set; ``wandb sync RUN/wandb/offline-*`` uploads later. The
    project is ``fleke-flwr`` unless ``WANDB_PROJECT`` is set.
    """

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    def start(self, name: str, config: Mapping[str, Scalar], directory: Path) -> None:
        """Remember what every run is begun with."""
        self._name, self._config, self._directory = name, dict(config), directory
        self._runs: dict[str, Any] = {}

    def log(self, step: int, metrics: Mapping[str, float], variant: str) -> None:
        """Add metrics to the variant's run; at an equal step they are joined."""
        run = self._runs.get(variant) or self._open(variant)
        run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """End all runs."""
        for run in self._runs.values():
            run.finish()

    def _open(self, variant: str) -> Any:
        import wandb

        self._runs[variant] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=self._name,
            name=variant,
            config=self._config,
            dir=str(self._directory),
            mode=_mode(),
            reinit="create_new",
            # Neither the terminal's text nor the machine's load is a metric of the run.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_stats=True
            ),
        )
        return self._runs[variant]


def _mode() -> Any:
    return os.environ.get("WANDB_MODE", "offline")

"""Metrics as TensorBoard event files, a folder per variant: ``tensorboard --logdir RUN``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fleke_flwr.apps.failed_edits import folder_of
from fleke_flwr.apps.trackers import Tracker
from fleke_flwr.values import Scalar

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Writes scalars below ``RUN/tensorboard``, where variants can be laid over each other."""

    package: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "tensorboard"

    def start(self, name: str, config: Mapping[str, Scalar], directory: Path) -> None:
        """Remember where to write, and with which settings."""
        self._folder = directory / FOLDER
        self._settings = "\n".join(f"    {key} = {value!r}" for key, value in config.items())
        self._writers: dict[str, SummaryWriter] = {}

    def log(self, step: int, metrics: Mapping[str, float], variant: str) -> None:
        """Write scalars, so that they can be looked at while the run goes on."""
        writer = self._writers.get(variant) or self._open(variant)
        for metric, value in metrics.items():
            writer.add_scalar(metric, value, step)
        writer.flush()

    def finish(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()

    def _open(self, variant: str) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self._folder / folder_of(variant)))
        writer.add_text("settings", self._settings)
        self._writers[variant] = writer
        return writer

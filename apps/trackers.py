"""Show a run's metrics elsewhere while it runs: one small hook for experiment trackers.

A tracker is a class with three methods. It is found by name, by the entry-point group
``fleke_flwr.trackers``, or as ``package.module:Class``, and imported only when a run names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from fleke_flwr.apps.drift import DRIFT
from fleke_flwr.apps.rows import summary
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.progress import Progress
from fleke_flwr.registry import Registry
from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.values import Scalar, comma_list

_MEASURED = ("score", "efficacy", "paraphrase", "neighborhood", "same_subject")


class Tracker:
    """Base of all trackers; none of its methods has to be overridden.

    What a tracker raises ends the tracker, never the run.
    """

    # A package that has to be installed, and the extra of fleke-flwr that brings it.
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def start(self, name: str, config: Mapping[str, Scalar], directory: Path) -> None:
        """Begin a run.

        Parameters
        ----------
        name : str
            The run's.
        config : Mapping[str, Scalar]
            All its settings by dotted key.
        directory : Path
            The run's; a tracker writes into a folder of its own inside.
        """

    def log(self, step: int, metrics: Mapping[str, float], variant: str) -> None:
        """Take metrics of one variant; ``step`` is the round, from 1, and never goes back."""

    def finish(self) -> None:
        """End the run: write what has not been written yet."""


TRACKERS: Registry[Tracker] = Registry("tracker", Tracker, "fleke_flwr.trackers")
TRACKERS.add("tensorboard", "fleke_flwr.apps.tracking.tensorboard:TensorBoard")
TRACKERS.add("wandb", "fleke_flwr.apps.tracking.wandb:WeightsAndBiases")


def tracker_kinds(config: RunConfig) -> dict[str, type[Tracker]]:
    """Return the classes of a run's trackers by name; the edge at which a missing one is refused.

    Raises
    ------
    ConfigError
        If a tracker is unknown, or its package is not installed.
    """
    kinds = {name: TRACKERS.get(name) for name in comma_list(config.trackers)}
    for name, kind in kinds.items():
        if kind.package and find_spec(kind.package) is None:
            raise ConfigError(
                f"trackers = {config.trackers!r}: {name} needs the package {kind.package!r}, which "
                f"is not installed; pip install 'fleke-flwr[{kind.extra}]', or leave it out"
            )
    return kinds


class Trackers:
    """All trackers of a run.

    One that raises is named once and switched off; the others and the run go on.

    Parameters
    ----------
    config : RunConfig
        Names the trackers.
    directory : Path
        The run's.
    progress : Progress
        Is told of a tracker that was switched off.

    Raises
    ------
    ConfigError
        If a tracker is unknown, or its package is not installed.
    """

    def __init__(self, config: RunConfig, directory: Path, progress: Progress) -> None:
        self._progress = progress
        self._shown: dict[tuple[str, int], dict[str, float]] = {}
        self._live = {name: kind() for name, kind in tracker_kinds(config).items()}
        settings = config.to_flat()
        self._tell(lambda tracker: tracker.start(config.name, settings, directory))

    def round(self, variant: str, record: RoundRecord) -> None:
        """Show what is new of a round, which is merged first and measured later."""
        metrics = round_metrics(record)
        shown = self._shown.get((variant, record.round), {})
        fresh = {name: value for name, value in metrics.items() if shown.get(name) != value}
        self._shown[variant, record.round] = metrics
        self._tell(lambda tracker: tracker.log(record.round, fresh, variant))

    def variant(self, variant: str, row: Mapping[str, Any]) -> None:
        """Show what is known of a variant only at its end: its drift and its total time."""
        metrics = variant_metrics(row)
        self._tell(lambda tracker: tracker.log(int(row["rounds"]), metrics, variant))

    def finish(self) -> None:
        """End all trackers."""
        self._tell(lambda tracker: tracker.finish())
        self._live.clear()

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._live.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._live[name]
                self._progress.line(
                    f"tracker {name} is switched off, the run goes on: "
                    f"{type(error).__name__}: {error}"
                )


def round_metrics(record: RoundRecord) -> dict[str, float]:
    """Name what a round has measured and cost; percentages, bytes, seconds."""
    quality = summary(record)
    measured = {name: quality[name] for name in _MEASURED}
    if measured["score"] is None:
        measured["score"] = quality["score_tokens"]
    return {
        **{name: value for name, value in measured.items() if value is not None},
        "payload/up_bytes": float(record.up_bytes),
        "payload/down_bytes": float(record.down_bytes),
        **{f"seconds/{phase}": value for phase, value in sorted(record.seconds.items())},
        **({} if record.update_norm is None else {"update_norm": record.update_norm}),
    }


def variant_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Name what a finished variant's row says of its drift, and its seconds in all."""
    drift = row.get(DRIFT) or {}
    read = drift.get("perplexity") or {}
    known = {
        f"{DRIFT}/perplexity_{when}": read[when]
        for when in ("before", "after")
        if read.get(when) is not None
    }
    sizes = {
        f"{DRIFT}/relative_update/{module}": norms["relative"]
        for module, norms in drift.get("weights", {}).items()
    }
    return {**known, **sizes, "seconds/total": float(row["seconds"]["total"])}

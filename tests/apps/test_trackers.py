"""Trackers get what a run measures, are refused before a run, and never end one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fleke_flwr.apps import trackers as module
from fleke_flwr.apps.trackers import Tracker, Trackers, round_metrics, tracker_kinds
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.progress import Silent
from fleke_flwr.strategies.rounds import RoundRecord
from tests.apps.rows import drifting, made_row

HERE = "tests.apps.test_trackers"
SUMS = {"efficacy": (1.0, 1.0, 2), "paraphrase": (1.0, 1.0, 1), "neighborhood": (1.0, 1.0, 1)}


def record_of(round_: int = 1, **fields: Any) -> RoundRecord:
    """Return a round in which the score is 75 %."""
    return RoundRecord(
        round_, **{"edits": 3, "up_bytes": 1024, "update_norm": 0.5, "clients": {0: SUMS}, **fields}
    )


class Lines(Silent):
    """Keeps the lines it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


class Listed(Tracker):
    """Keeps what it is told."""

    told: list[tuple[Any, ...]]

    def start(self, name: str, config: Mapping[str, Any], directory: Path) -> None:
        type(self).told = [("start", name, config["clients"], directory)]

    def log(self, step: int, metrics: Mapping[str, float], variant: str) -> None:
        self.told.append((variant, step, dict(metrics)))

    def finish(self) -> None:
        self.told.append(("finish",))


class Broken(Tracker):
    """Breaks in its second round."""

    calls = 0

    def log(self, step: int, metrics: Mapping[str, float], variant: str) -> None:
        type(self).calls += 1
        if step == 2:
            raise OSError("disk full")


def test_a_tracker_is_told_everything_in_order(tmp_path: Path) -> None:
    config = RunConfig(name="mine", clients=3, trackers=f"{HERE}:Listed")
    trackers = Trackers(config, tmp_path, Silent())
    trackers.round("collabedit", record_of(seconds={"targets": 2.0}, clients={}))
    trackers.round("collabedit", record_of(seconds={"targets": 2.0, "evaluate": 1.0}))
    trackers.variant("collabedit", drifting(made_row("collabedit")))
    trackers.finish()
    start, merged, measured, row, end = Listed.told
    assert start == ("start", "mine", 3, tmp_path)
    assert merged == (
        "collabedit", 1,
        {
            "payload/up_bytes": 1024.0, "payload/down_bytes": 0.0, "seconds/targets": 2.0,
            "update_norm": 0.5,
        },
    )  # fmt: skip
    # A round that was merged before is measured now: only what is new is told.
    assert measured[2] == {
        "score": pytest.approx(75.0), "efficacy": 50.0, "paraphrase": 100.0, "neighborhood": 100.0,
        "seconds/evaluate": 1.0,
    }  # fmt: skip
    assert row == (
        "collabedit", 1,
        {
            "drift/perplexity_before": 4.963, "drift/perplexity_after": 5.093,
            "drift/relative_update/transformer.h.3.mlp.c_proj": 0.75,
            "drift/relative_update/transformer.h.4.mlp.c_proj": 1.0,
            "seconds/total": 12.3,
        },
    )  # fmt: skip
    assert end == ("finish",)


def test_zsre_has_its_own_score() -> None:
    tokens = {f"{kind}_tokens": (1.0, 1.0, 2) for kind in SUMS}
    assert round_metrics(record_of(clients={0: tokens}))["score"] == pytest.approx(50.0)


def test_a_tracker_that_breaks_is_named_once_and_the_others_go_on(tmp_path: Path) -> None:
    config = RunConfig(trackers=f"{HERE}:Broken, {HERE}:Listed")
    lines = Lines()
    trackers = Trackers(config, tmp_path, lines)
    for number in (1, 2, 3):
        trackers.round("ties", record_of(number))
    trackers.finish()
    assert Broken.calls == 2
    assert len(lines.said) == 1
    assert "Broken is switched off" in lines.said[0]
    assert "OSError: disk full" in lines.said[0]
    assert [entry[1] for entry in Listed.told[1:-1]] == [1, 2, 3]


def test_without_trackers_nothing_is_imported(tmp_path: Path) -> None:
    assert tracker_kinds(RunConfig()) == {}
    trackers = Trackers(RunConfig(), tmp_path, Silent())
    trackers.round("ties", record_of())
    trackers.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"pip install 'fleke-flwr\[{name}\]'"):
        tracker_kinds(RunConfig(trackers=name))


def test_an_unknown_tracker_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="tensorboard"):
        tracker_kinds(RunConfig(trackers="tensorbord"))
    with pytest.raises(ConfigError, match="not a subclass of Tracker"):
        tracker_kinds(RunConfig(trackers="pathlib:Path"))


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        trackers = Trackers(RunConfig(trackers="tensorboard"), tmp_path, Lines())
        for variant, norm in (("collabedit", 0.5), ("ties 0.4", 0.25)):
            for number in (1, 2):
                trackers.round(variant, record_of(number, update_norm=norm * number))
        trackers.variant("collabedit", drifting(made_row("collabedit", rounds=2)))
        trackers.finish()
        folder = tmp_path / "tensorboard"
        assert {path.name for path in folder.iterdir()} == {"collabedit", "ties_0.4"}
        for variant, norms in (("collabedit", [0.5, 1.0]), ("ties_0.4", [0.25, 0.5])):
            events = EventAccumulator(str(folder / variant)).Reload()
            assert [item.step for item in events.Scalars("score")] == [1, 2]
            assert [item.value for item in events.Scalars("update_norm")] == norms
            assert events.Scalars("score")[0].value == pytest.approx(75.0)
        drift = EventAccumulator(str(folder / "collabedit")).Reload()
        assert drift.Scalars("drift/perplexity_after")[0].value == pytest.approx(5.093)


@pytest.mark.slow
def test_wandb_writes_a_run_per_variant_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed", exc_type=ImportError)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    lines = Lines()

    def work() -> None:
        # Flower runs a ServerApp outside the main thread.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own imports
            trackers = Trackers(RunConfig(name="mine", trackers="wandb"), tmp_path, lines)
            for variant in ("collabedit", "ties"):
                trackers.round(variant, record_of(1, update_norm=0.125))
                trackers.round(variant, record_of(2, update_norm=0.375))
                trackers.variant(variant, drifting(made_row(variant, rounds=2)))
            trackers.finish()

    thread = Thread(target=work)
    thread.start()
    thread.join(120)
    assert lines.said == []
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2
    written = b"".join(path.read_bytes() for path in runs)
    for text in (b"collabedit", b"ties", b"update_norm", b"0.375", b"drift/perplexity_after"):
        assert text in written
    assert "wandb" in sys.modules

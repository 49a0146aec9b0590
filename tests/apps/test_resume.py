"""A run that breaks off ends, when it is resumed, as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from flwr.app import Context, Message, RecordDict

from fleke_flwr.apps import server_app
from fleke_flwr.apps.experiment import Experiment
from fleke_flwr.apps.run_file import CHECKPOINT, RUNNING, clear_end, note_run, read_run
from fleke_flwr.apps.server_app import LOCK
from fleke_flwr.artifacts import read_json
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import ConfigError, DataError, RunError
from fleke_flwr.state import EditState
from fleke_flwr.strategies.checkpoint import Checkpoint
from tests.apps.federation import federation, run_config, write_records


class Killed(BaseException):
    """The process is gone; nothing is written any more."""


def killer(kind: str, after: int) -> Any:
    """Return a tamper function that kills the run at the reply after so many of a kind."""
    seen = 0

    def tamper(partition: int, order: Message, reply: Message) -> Message:
        nonlocal seen
        if order.metadata.message_type == kind:
            seen += 1
            if seen > after:
                raise Killed
        return reply

    return tamper


def configured(model: Path, directory: Path, **settings: Any) -> RunConfig:
    directory.mkdir(parents=True, exist_ok=True)
    records = write_records(directory / "records.jsonl", [5, 4])
    return run_config(model, records, directory, clients=2, rounds=3, **settings)


def outcome(config: RunConfig) -> dict[str, Any]:
    """Return everything of a finished run that must not depend on a break; no times."""
    row = read_json(Path(config.output_dir) / "metrics.json")
    for key in ("seconds", "peak_rss_mb", "targets", "drift"):
        del row[key]
    for line in row["history"]:
        del line["seconds"]
        line["counts"].pop("worth", None)
    del row["dataset"]
    exchange = row.get("exchange", {})
    for name in [name for name in exchange if "seconds" in name]:
        del exchange[name]
    return row


def broken_off(config: RunConfig, kind: str, after: int) -> None:
    experiment, _ = federation(config, tamper=killer(kind, after))
    with pytest.raises(Killed):
        experiment.run()


def edits(config: RunConfig) -> dict[str, torch.Tensor]:
    state = EditState.load(Path(config.output_dir) / "edits.safetensors")
    return {module: update.dense() for module, update in state.updates.items()}


CASES: list[tuple[dict[str, Any], str, int]] = [
    ({"mode": "joint"}, "train.edit", 2),
    ({"mode": "joint"}, "evaluate.edit", 5),
    ({"mode": "anticipated", "memory": "dynamic"}, "train.edit", 5),
    ({"mode": "joint", "memory": "statistics"}, "train.edit", 3),
    ({"mode": "joint", "memory": "statistics", "encoding": "dense"}, "evaluate.edit", 6),
    ({"mode": "layer_sync", "memory": "statistics"}, "train.edit", 9),
    ({"mode": "layer_sync"}, "train.edit", 9),
    ({"mode": "joint", "sweeps": 2}, "train.edit", 7),
    ({"strategy": "ties"}, "train.edit", 2),
    ({"mode": "joint", "overlap__threshold": 0.5}, "train.edit", 4),
    (
        {
            "mode": "joint",
            "memory": "statistics",
            "conflict__policy": "latest",
            "data__rivals": 0.5,
        },
        "query.losers",
        7,
    ),
]


@pytest.mark.parametrize(("settings", "kind", "after"), CASES)
def test_a_resumed_run_ends_as_an_undisturbed_one(
    settings: dict[str, Any], kind: str, after: int, tiny_gpt2: Path, tmp_path: Path
) -> None:
    whole = configured(tiny_gpt2, tmp_path / "whole", **settings)
    federation(whole)[0].run()
    config = configured(tiny_gpt2, tmp_path / "broken", **settings)
    broken_off(config, kind, after)
    assert (Path(config.output_dir) / CHECKPOINT).is_file()
    kept = len(Checkpoint.load(Path(config.output_dir) / CHECKPOINT).history)
    assert kept in (1, 2, 3)
    experiment, grid = federation(replace(config, resume=True))
    experiment.run()
    assert outcome(config) == outcome(whole)
    torch.testing.assert_close(edits(config), edits(whole), rtol=1e-10, atol=1e-13)
    per_round = 2 * experiment.rows[0]["messages"]
    trained = [m for m in grid.sent if m.metadata.message_type == "train.edit"]
    assert len(trained) >= (3 - kept) * per_round
    if "conflict__policy" not in settings:
        assert len(trained) == (3 - kept) * per_round
    for name in (CHECKPOINT, RUNNING):
        assert not (Path(config.output_dir) / name).exists()


@pytest.mark.parametrize("rule", ["pooled", "own_keys", "paper"])
@pytest.mark.parametrize(("kind", "after"), [("train.share", 3), ("train.reedit", 3)])
def test_personal_models_go_on_where_they_were(
    rule: str, kind: str, after: int, tiny_gpt2: Path, tmp_path: Path
) -> None:
    settings = {"strategy": "fededit", "fededit__rule": rule, "fededit__alpha": 0.1}
    whole = configured(tiny_gpt2, tmp_path / "whole", **settings)
    federation(whole)[0].run()
    config = configured(tiny_gpt2, tmp_path / "broken", **settings)
    broken_off(config, kind, after)
    federation(replace(config, resume=True))[0].run()
    found, expected = outcome(config), outcome(whole)
    if kind == "train.reedit":
        # A client that had taken the others' edits already finds nothing new in them.
        for row in (found, expected):
            del row["exchange"]
            for line in row["history"]:
                del line["counts"]
    assert found == expected
    for path in sorted((Path(whole.output_dir) / "personal").rglob("*.safetensors")):
        twin = Path(config.output_dir) / path.relative_to(whole.output_dir)
        assert EditState.load(twin).fingerprint == EditState.load(path).fingerprint


def test_a_client_that_keeps_no_files_makes_its_own_model_again(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    settings = {"strategy": "fededit", "fededit__alpha": -1.0}
    whole = configured(tiny_gpt2, tmp_path / "whole", **settings)
    federation(whole)[0].run()
    config = configured(tiny_gpt2, tmp_path / "broken", **settings)
    broken_off(config, "train.share", 4)
    (Path(config.output_dir) / "memory" / "client-1.safetensors").unlink()
    federation(replace(config, resume=True))[0].run()
    events = (Path(config.output_dir) / "events.jsonl").read_text(encoding="utf-8")
    assert "client 1 has lost its own model and makes it again" in events
    for client in (0, 1):
        found, expected = (
            EditState.load(
                next((Path(c.output_dir) / "personal").rglob(f"*client-{client}*.safetensors"))
            )
            for c in (config, whole)
        )
        for module, update in expected.updates.items():
            torch.testing.assert_close(
                found.updates[module].dense(), update.dense(), rtol=1e-6, atol=1e-9
            )


def test_a_comparison_goes_on_with_the_variant_that_broke_off(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    settings = {"strategies": "collabedit,ties,task_arithmetic", "mode": "joint"}
    whole = configured(tiny_gpt2, tmp_path / "whole", **settings)
    federation(whole)[0].run()
    config = configured(tiny_gpt2, tmp_path / "broken", **settings)
    broken_off(config, "train.edit", 9)
    experiment, grid = federation(replace(config, resume=True))
    experiment.run()
    trained = [m for m in grid.sent if m.metadata.message_type == "train.edit"]
    assert len(trained) == 4 + 6
    rows, expected = (
        read_json(Path(c.output_dir) / "comparison.json")["rows"] for c in (config, whole)
    )
    assert [row["strategy"] for row in rows] == ["collabedit", "ties", "task_arithmetic"]
    assert [row["final"] for row in rows] == [row["final"] for row in expected]


def test_a_lost_verdict_is_not_guessed(tiny_gpt2: Path, tmp_path: Path) -> None:
    settings = {"mode": "joint", "conflict__policy": "latest", "data__rivals": 0.5}
    config = configured(tiny_gpt2, tmp_path, memory="statistics", **settings)
    broken_off(config, "query.losers", 5)
    for path in (Path(config.output_dir) / "memory").glob("*"):
        path.unlink()
    with pytest.raises(RunError, match="give it a results-path"):
        federation(replace(config, resume=True))[0].run()


def test_too_few_clients_end_the_run_and_fewer_may_go_on(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configured(tiny_gpt2, tmp_path, mode="joint", timeout=0.2)

    def silent_from_round_2(partition: int, order: Message, reply: Message) -> Message | None:
        gone = partition == 1 and order.metadata.group_id not in ("1.0", "1")
        return None if gone and order.metadata.message_type == "train.edit" else reply

    experiment, _ = federation(config, tamper=silent_from_round_2)
    with pytest.raises(RunError, match=r"1 good replies of 2.*round 1 is kept.*--resume"):
        experiment.run()
    again = replace(config, resume=True, min_clients=1)
    federation(again, tamper=silent_from_round_2)[0].run()
    row = read_json(Path(config.output_dir) / "metrics.json")
    assert [list(line["left_out"]) for line in row["history"]] == [[], ["1"], ["1"]]
    assert row["edits"] < 9


def test_other_settings_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configured(tiny_gpt2, tmp_path, mode="joint")
    broken_off(config, "train.edit", 2)
    other = replace(config, resume=True, seed=7)
    with pytest.raises(ConfigError, match="seed was 0 and is 7"):
        federation(other)[0].run()


def test_what_a_run_has_written_down_is_enough_to_resume_it(tmp_path: Path) -> None:
    config = RunConfig(name="x", output_dir=str(tmp_path), seed=3)
    note_run(tmp_path, config, "lab")
    for name in ("done.json", "failure.json", "events.jsonl"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    found, where = read_run(tmp_path, ["min-clients=2", "timeout=9"])
    assert where == "lab"
    assert found == replace(config, resume=True, min_clients=2, timeout=9.0)
    clear_end(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json"]
    with pytest.raises(ConfigError, match=r"rounds was 1 and is 4"):
        read_run(tmp_path, ["rounds=4"])
    with pytest.raises(DataError, match=r"holds no run\.json"):
        read_run(tmp_path / "nowhere", [])


def test_a_checkpoint_of_another_model_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configured(tiny_gpt2, tmp_path, mode="joint")
    broken_off(config, "train.edit", 2)
    path = Path(config.output_dir) / CHECKPOINT
    found = Checkpoint.load(path)
    replace(found, state=replace(found.state, base="another")).save(path)
    with pytest.raises(DataError, match="belongs to base model another"):
        federation(replace(config, resume=True))[0].run()


def test_nothing_is_resumed_without_being_asked(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configured(tiny_gpt2, tmp_path, mode="joint")
    broken_off(config, "train.edit", 2)
    experiment, grid = federation(config)
    assert isinstance(experiment, Experiment)
    experiment.run()
    assert len([m for m in grid.sent if m.metadata.message_type == "train.edit"]) == 6


def test_a_run_that_is_still_alive_is_not_resumed(tmp_path: Path) -> None:
    config = RunConfig(output_dir=str(tmp_path), resume=True)
    context = Context(1, 1, {}, RecordDict(), config.to_flat())
    with FileLock(tmp_path / LOCK), pytest.raises(RunError, match="another run writes into it"):
        server_app.main(None, context)
    assert not (tmp_path / "failure.json").exists()

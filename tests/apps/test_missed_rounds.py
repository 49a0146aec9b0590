"""A client that misses a round brings its edits along when it takes part again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fleke_flwr.apps.revoke import revoke
from fleke_flwr.artifacts import read_json
from fleke_flwr.config import RunConfig
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState
from tests.apps.central import Updates, assert_equal
from tests.apps.federation import federation, run_config, write_records


def absent(client: int, rounds: set[str]) -> Any:
    """Return a tamper function by which a client does not answer in some rounds."""

    def tamper(partition: int, order: Message, reply: Message) -> Message | None:
        asked = order.metadata.message_type == "train.edit" and partition == client
        return None if asked and order.metadata.group_id.split(".")[0] in rounds else reply

    return tamper


def finished(model: Path, directory: Path, tamper: Any = None, **settings: Any) -> RunConfig:
    directory.mkdir()
    records = write_records(directory / "records.jsonl", [5, 4])
    config = run_config(
        model, records, directory, clients=2, min_clients=1, rounds=3, timeout=0.2, **settings
    )
    federation(config, tamper=tamper)[0].run()
    return config


def state(config: RunConfig) -> EditState:
    return EditState.load(Path(config.output_dir) / "edits.safetensors")


def updates(config: RunConfig) -> Updates:
    return {module: update.dense() for module, update in state(config).updates.items()}


def history(config: RunConfig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(Path(config.output_dir) / "metrics.json")["history"]
    return found


@pytest.mark.parametrize("mode", ["joint", "anticipated", "layer_sync"])
@pytest.mark.parametrize(
    ("rounds", "edits"), [({"1"}, [2, 5, 2]), ({"1", "2"}, [2, 2, 5]), ({"2"}, [4, 2, 3])]
)
def test_with_all_statistics_the_end_is_as_if_nobody_had_been_away(
    mode: str, rounds: set[str], edits: list[int], tiny_gpt2: Path, tmp_path: Path
) -> None:
    settings = {"mode": mode, "memory": "statistics"}
    whole = finished(tiny_gpt2, tmp_path / "whole", **settings)
    config = finished(tiny_gpt2, tmp_path / "late", absent(1, rounds), **settings)
    assert_equal(state(config), updates(whole), 1e-12)
    lines = history(config)
    assert [bool(line["left_out"]) for line in lines] == [str(n) in rounds for n in (1, 2, 3)]
    if mode == "layer_sync":
        # Every round is solved anew from what its clients contribute, of all rounds so far.
        assert sum(line["edits"] for line in lines) == 9
    else:
        assert [line["edits"] for line in lines] == edits


@pytest.mark.parametrize("strategy", ["collabedit", "ties"])
def test_without_a_memory_all_edits_are_made_too(
    strategy: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    settings = {"mode": "joint", "strategy": strategy}
    config = finished(tiny_gpt2, tmp_path / "late", absent(1, {"1"}), **settings)
    assert [line["edits"] for line in history(config)] == [2, 5, 2]


def test_edits_that_came_late_can_be_withdrawn(tiny_gpt2: Path, tmp_path: Path) -> None:
    settings = {"mode": "joint", "memory": "statistics"}
    config = finished(tiny_gpt2, tmp_path / "late", absent(1, {"1"}), **settings)
    run = Path(config.output_dir)
    lines = Path(config.data.path).read_text(encoding="utf-8").splitlines()
    # Relation r1 is client 1's; its first records are dealt to some round, known or missed.
    gone = tmp_path / "gone.jsonl"
    gone.write_text("\n".join(lines[5:7]) + "\n", encoding="utf-8")
    revoke(run, None, gone, Silent())

    left = tmp_path / "left"
    left.mkdir()
    records = left / "records.jsonl"
    records.write_text("\n".join([*lines[:5], *lines[7:]]) + "\n", encoding="utf-8")
    never = run_config(tiny_gpt2, records, left, clients=2, rounds=1, **settings)
    federation(never)[0].run()
    assert_equal(state(config), updates(never), 1e-10)

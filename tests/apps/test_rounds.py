"""Rounds with a memory, sweeps inside a round, and clients that drop out between layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from fleke_flwr.apps.client_app import app
from fleke_flwr.apps.experiment import Experiment
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.errors import ConfigError
from fleke_flwr.state import EditState
from tests.apps.central import (
    Central,
    assert_equal,
    joint,
    layer_sync,
    plus,
    stacked_keys,
)
from tests.apps.federation import federation, run_config, states, write_records
from tests.strategies.memory_grid import MemoryGrid

MODES = ["joint", "anticipated", "layer_sync", "frozen"]


def finish(
    model: Path, directory: Path, sizes: list[int], tamper: Any = None, **settings: Any
) -> tuple[EditState, Any]:
    directory.mkdir(exist_ok=True)
    records = write_records(directory / "records.jsonl", sizes)
    config = run_config(model, records, directory, **settings)
    experiment, _ = federation(config, tamper=tamper)
    experiment.run()
    return EditState.load(Path(config.output_dir) / "edits.safetensors"), experiment


@pytest.mark.parametrize("mode", MODES)
def test_with_statistics_the_last_round_is_one_edit_of_everything(
    mode: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    settings = {"mode": mode, "data__slot_order": "file"}
    slow, _ = finish(
        tiny_gpt2, tmp_path / "rounds", [4, 3, 2], rounds=3, memory="statistics", **settings
    )
    fast, _ = finish(tiny_gpt2, tmp_path / "once", [4, 3, 2], **settings)
    assert_equal(slow, {name: update.dense() for name, update in fast.updates.items()})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("memory", "sweeps"), [("none", 2), ("dynamic", 1), ("statistics", 2)])
def test_collabedit_equals_global_with_every_memory(
    mode: str, memory: str, sweeps: int, tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [4, 2, 1])
    config = run_config(
        tiny_gpt2,
        records,
        tmp_path,
        mode=mode,
        memory=memory,
        sweeps=sweeps,
        rounds=2,
        strategies="collabedit,global",
    )
    federation(config)[0].run()
    final = states(config)
    expected = {name: update.dense() for name, update in final["global"].updates.items()}
    assert_equal(final["collabedit"], expected)


def test_layer_sync_is_memit_on_the_union(tiny_gpt2: Path, tmp_path: Path) -> None:
    found, experiment = finish(tiny_gpt2, tmp_path, [5, 2], clients=3, mode="layer_sync")
    central = Central(experiment.config)
    assert [len(central.requests(client)[0]) for client in range(3)] == [5, 2, 0]
    assert_equal(found, layer_sync(central, lambda _: central.everybody(1), {}))


def test_a_request_of_two_clients_counts_twice(tiny_gpt2: Path, tmp_path: Path) -> None:
    lines = write_records(tmp_path / "all.jsonl", [4]).read_text(encoding="utf-8").splitlines()
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl", tmp_path / "third.jsonl"]
    for file, held in zip(files, (lines[:3], lines[2:], lines[2:3]), strict=True):
        file.write_text("\n".join(held) + "\n", encoding="utf-8")
    config = run_config(tiny_gpt2, files[0], tmp_path, mode="layer_sync")
    nodes = [{"data-path": str(file)} for file in files]
    grid = MemoryGrid(app, config.to_flat(), nodes)
    Experiment(config, grid, Path(config.output_dir)).run()
    found = EditState.load(Path(config.output_dir) / "edits.safetensors")
    requests = [
        case.request
        for file in files
        for case in load_cases(replace(config.data, path=str(file))).cases
    ]
    assert len(requests) == 6
    assert len(set(requests)) == 4
    assert_equal(found, layer_sync(Central(config), lambda _: requests, {}))


def test_a_client_lost_between_two_layers_is_out_from_there_on(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    def lose(partition: int, order: Message, reply: Message) -> Message | None:
        asked = order.metadata.message_type == "train.edit" and partition == 1
        return None if asked and order.metadata.group_id == "1.1" else reply

    found, experiment = finish(
        tiny_gpt2, tmp_path, [3, 3, 3], tamper=lose, mode="layer_sync", min_clients=2, timeout=0.3
    )
    central = Central(experiment.config)
    everybody = [request for client in range(3) for request in central.requests(client)[0]]
    others = [request for client in (0, 2) for request in central.requests(client)[0]]
    twin = layer_sync(central, lambda layer: everybody if layer == 0 else others, {})
    assert_equal(found, twin)
    assert "no reply" in experiment.rows[0]["history"][0]["left_out"]["1"]


@pytest.mark.parametrize("sweeps", [2, 3])
def test_sweeps_of_layer_sync_follow_their_formula(
    sweeps: int, tiny_gpt2: Path, tmp_path: Path
) -> None:
    found, experiment = finish(tiny_gpt2, tmp_path, [3, 2, 2], mode="layer_sync", sweeps=sweeps)
    central = Central(experiment.config)
    assert_equal(found, layer_sync(central, lambda _: central.everybody(1), {}, sweeps))


@pytest.mark.parametrize("encoding", ["factors", "dense"])
def test_sweeps_of_joint_follow_their_formula(
    encoding: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    found, experiment = finish(tiny_gpt2, tmp_path, [3, 2, 2], sweeps=3, encoding=encoding)
    central = Central(experiment.config)
    assert_equal(found, joint(central, central.everybody(1), {}, 3))


@pytest.mark.parametrize("encoding", ["factors", "dense"])
def test_the_dynamic_prior_protects_the_keys_of_past_rounds(
    encoding: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    found, experiment = finish(
        tiny_gpt2,
        tmp_path,
        [4, 2, 2],
        rounds=2,
        memory="dynamic",
        encoding=encoding,
        merge__beta0=0.5,
        merge__beta1=3.0,
    )
    central = Central(experiment.config)
    central.priors = {module: 0.5 * prior for module, prior in central.priors.items()}
    first = joint(central, central.everybody(1), {})
    keys = stacked_keys(central, central.everybody(1), {})
    second = joint(central, central.everybody(2), first, past=3.0 * keys @ keys.T)
    assert_equal(found, plus(first, second))


def test_beta1_is_the_ridge_weight_unless_set(tiny_gpt2: Path, tmp_path: Path) -> None:
    found, experiment = finish(tiny_gpt2, tmp_path, [4, 2, 2], rounds=2, memory="dynamic")
    central = Central(experiment.config)
    first = joint(central, central.everybody(1), {})
    keys = stacked_keys(central, central.everybody(1), {})
    weight = central.spec.ridge_weight
    second = joint(central, central.everybody(2), first, past=weight * keys @ keys.T)
    assert_equal(found, plus(first, second))


def test_without_a_memory_rounds_are_edits_of_the_edited_model(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    found, experiment = finish(tiny_gpt2, tmp_path, [4, 2, 2], rounds=2)
    central = Central(experiment.config)
    first = joint(central, central.everybody(1), {})
    second = joint(central, central.everybody(2), first)
    assert_equal(found, plus(first, second))


def test_statistics_need_a_mode_that_reads_the_base_model(tiny_gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="local_sequential"):
        finish(tiny_gpt2, tmp_path, [2, 2, 2], mode="local_sequential", memory="statistics")


@pytest.mark.parametrize(
    "settings", [{"memory": "dynamic"}, {"sweeps": 2}, {"conflict__policy": "latest"}]
)
def test_strategies_that_solve_nothing_have_no_memory(
    settings: dict[str, Any], tiny_gpt2: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="edit_avg"):
        finish(tiny_gpt2, tmp_path, [2, 2, 2], strategy="edit_avg", **settings)


def test_records_of_the_first_round_are_measured_apart(tiny_gpt2: Path, tmp_path: Path) -> None:
    _, experiment = finish(tiny_gpt2, tmp_path, [4, 4, 4], rounds=3, data__first=6)
    row = experiment.rows[0]
    assert [line["edits"] for line in row["history"]] == [6, 3, 3]
    for line in row["history"]:
        assert line["first"]["efficacy_ci95"] is not None
    assert row["history"][0]["first"] == row["history"][0]["quality"]
    assert row["final_first"] == row["history"][-1]["first"] != row["final"]


def test_only_the_first_rounds_records_are_measured_when_asked(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    _, experiment = finish(
        tiny_gpt2, tmp_path, [4, 4, 4], rounds=3, data__first=6, evaluation__records="first"
    )
    row = experiment.rows[0]
    assert row["final"] == row["final_first"]
    assert sum(client["edits"] for client in row["per_client"]) == 6


def test_float32_sweeps_end_near_those_in_float64(tiny_gpt2: Path, tmp_path: Path) -> None:
    settings = {"mode": "layer_sync", "sweeps": 2}
    exact, _ = finish(tiny_gpt2, tmp_path / "exact", [3, 2, 2], **settings)
    rough, _ = finish(tiny_gpt2, tmp_path / "rough", [3, 2, 2], payload_dtype="float32", **settings)
    expected = {name: update.dense() for name, update in exact.updates.items()}
    assert_equal(rough, expected, tolerance=1e-3)
    assert not all(
        torch.equal(rough.updates[name].dense(), update) for name, update in expected.items()
    )

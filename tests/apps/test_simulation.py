"""The real app in Flower's Ray simulation, against the same messages in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fleke_flwr.apps.runner import Simulation, simulate
from fleke_flwr.artifacts import read_json
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState
from tests.apps.federation import federation, run_config, write_records


@pytest.mark.slow
def test_personal_models_are_the_same_in_ray_and_in_memory(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [3, 2])
    config = run_config(
        tiny_gpt2, records, tmp_path,
        clients=2, strategy="fededit_no_condition", rounds=2, timeout=120.0,
    )  # fmt: skip
    experiment, _ = federation(config)
    experiment.run()
    simulated = replace(config, output_dir=str(tmp_path / "simulated"))
    Path(simulated.output_dir).mkdir()
    simulate(Simulation(simulated.to_flat(), 2), Path(simulated.output_dir), Silent())
    for client in (0, 1):
        here, there = (
            EditState.load(next(Path(place.output_dir).glob(f"personal/*/client-{client}.*")))
            for place in (config, simulated)
        )
        assert set(here.updates) == set(there.updates) != set()
        for name, update in here.updates.items():
            difference = (there.updates[name].dense() - update.dense()).norm()
            assert difference < 1e-8 * update.dense().norm()
    row = read_json(Path(simulated.output_dir) / "metrics.json")
    assert (row["clients"], row["edits"]) == (2, 5)
    assert row["exchange"]["optimizations_saved"] == 5
    assert row["final_all"]["efficacy"] is not None


@pytest.mark.slow
def test_ray_and_memory_give_the_same_edit(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [3, 2])
    # layer_sync needs what a client keeps between the messages of a round.
    config = run_config(
        tiny_gpt2, records, tmp_path, clients=2, mode="layer_sync", rounds=2, timeout=120.0
    )
    experiment, _ = federation(config)
    experiment.run()
    simulated = replace(config, output_dir=str(tmp_path / "simulated"))
    Path(simulated.output_dir).mkdir()
    simulate(Simulation(simulated.to_flat(), 2), Path(simulated.output_dir), Silent())
    here = EditState.load(Path(config.output_dir) / "edits.safetensors")
    there = EditState.load(Path(simulated.output_dir) / "edits.safetensors")
    assert set(here.updates) == set(there.updates)
    for name, update in here.updates.items():
        difference = (there.updates[name].dense() - update.dense()).norm()
        assert difference < 1e-8 * update.dense().norm()
    row = read_json(Path(simulated.output_dir) / "metrics.json")
    assert (row["clients"], row["rounds"], row["edits"]) == (2, 2, 5)

"""Edits that the shared model knows already, and key spaces that lie in each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr.apps.known_edits import remaining
from fleke_flwr.state import EditState
from fleke_flwr.types import LayerUpdate
from tests.apps.central import Central, joint
from tests.apps.federation import run_config, write_records


def repeated(model: Path, directory: Path, **settings: Any) -> Any:
    """Two clients, two rounds; the second client's second round repeats the first's first."""
    write_records(directory / "one.jsonl", [4])
    lines = (directory / "one.jsonl").read_text(encoding="utf-8").splitlines()
    known, fresh = lines[:2], lines[2:]
    files = [directory / "a.jsonl", directory / "b.jsonl"]
    files[0].write_text("\n".join([*known, fresh[0]]) + "\n", encoding="utf-8")
    files[1].write_text("\n".join([fresh[1], *known]) + "\n", encoding="utf-8")
    config = run_config(
        model,
        files[0],
        directory,
        clients=2,
        rounds=2,
        data__partition="iid",
        data__slot_order="file",
        data__first=4,
        overlap__threshold=0.7,
        edit__ridge_weight=0.01,
        **settings,
    )
    from fleke_flwr.apps.client_app import app
    from fleke_flwr.apps.experiment import Experiment
    from tests.strategies.memory_grid import MemoryGrid

    nodes = [{"data-path": str(path)} for path in files]
    grid = MemoryGrid(app, config.to_flat(), nodes)
    experiment = Experiment(config, grid, Path(config.output_dir))
    experiment.run()
    return experiment


def test_the_remaining_residual_is_read_on_both_models(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [3])
    central = Central(run_config(tiny_gpt2, records, tmp_path, clients=1))
    requests = central.everybody(1)
    targets = central.targets(requests, {})
    update = joint(central, requests, {})
    shared = EditState(central.model.fingerprint).plus(
        {module: LayerUpdate(matrix) for module, matrix in update.items()}, 1
    )
    from fleke_flwr.apps.priors import known_priors
    from fleke_flwr.progress import Silent

    priors = known_priors(central.config, central.model, central.spec, Silent())
    found = remaining(central.editor, central.model, shared, requests, targets, priors)
    keys, before = central.read(requests, targets, {})
    _, after = central.read(requests, targets, update)
    torch.testing.assert_close(found.residual, after.norm(dim=0) / before.norm(dim=0))
    leverage = sum(
        (keys[m] * torch.linalg.solve(central.priors[m], keys[m])).sum(dim=0)
        for m in central.modules
    )
    torch.testing.assert_close(found.predicted, 1 / (1 + leverage))


@pytest.mark.parametrize("memory", ["none", "statistics"])
@pytest.mark.parametrize("mode", ["anticipated", "layer_sync"])
def test_known_edits_are_left_out(mode: str, memory: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    experiment = repeated(tiny_gpt2, tmp_path, mode=mode, memory=memory)
    overlap = experiment.rows[0]["overlap"]
    known = overlap["known"]
    assert 1 <= known == overlap["skipped"]
    assert [line["edits"] for line in experiment.rows[0]["history"]] == [4, 2 - known]
    assert experiment.rows[0]["edits"] == 6 - known


def test_known_edits_can_be_sent_all_the_same(tiny_gpt2: Path, tmp_path: Path) -> None:
    experiment = repeated(tiny_gpt2, tmp_path, mode="layer_sync", overlap__action="send")
    overlap = experiment.rows[0]["overlap"]
    assert overlap["known"] >= 1
    assert overlap["skipped"] == 0
    assert experiment.rows[0]["edits"] == 6


def test_clients_with_the_same_edits_have_the_same_key_space(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [3, 3])
    same = (tmp_path / "same.jsonl").write_text(
        "\n".join(records.read_text(encoding="utf-8").splitlines()[:3]) + "\n", encoding="utf-8"
    )
    assert same
    config = run_config(tiny_gpt2, records, tmp_path, clients=3, overlap__threshold=0.1)
    from fleke_flwr.apps.client_app import app
    from fleke_flwr.apps.experiment import Experiment
    from tests.strategies.memory_grid import MemoryGrid

    other = tmp_path / "other.jsonl"
    other.write_text(
        "\n".join(records.read_text(encoding="utf-8").splitlines()[3:]) + "\n", encoding="utf-8"
    )
    nodes = [
        {"data-path": str(tmp_path / "same.jsonl")},
        {"data-path": str(tmp_path / "same.jsonl")},
        {"data-path": str(other)},
    ]
    grid = MemoryGrid(app, config.to_flat(), nodes)
    experiment = Experiment(config, grid, Path(config.output_dir))
    experiment.run()
    overlap = experiment.rows[0]["overlap"]
    assert overlap["clients"] == [0, 1, 2]
    shared = torch.tensor(overlap["shared"])
    torch.testing.assert_close(shared.diagonal(), torch.ones(3))
    torch.testing.assert_close(shared[0, 1], torch.tensor(1.0))
    assert shared[0, 2] < 0.9
    assert json.loads((Path(config.output_dir) / "metrics.json").read_text())["overlap"] == overlap

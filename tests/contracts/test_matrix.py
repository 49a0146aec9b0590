"""What every editor, strategy, mode and family must keep, whatever it does otherwise.

The lists come from the registries and the family table, so a new method is picked up by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr.artifacts import read_json
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.models.families import FAMILIES
from fleke_flwr.models.loading import load_model
from fleke_flwr.modes import MODES
from fleke_flwr.state import EditState
from fleke_flwr.strategies import STRATEGIES
from tests.apps.federation import federation, run_config, write_records

MODELS = {name: f"tiny_{name}" for name in FAMILIES}


def run(model: Path, directory: Path, sizes: list[int], **settings: Any) -> tuple[Any, EditState]:
    directory.mkdir(exist_ok=True)
    records = write_records(directory / "records.jsonl", sizes)
    config = run_config(model, records, directory, clients=len(sizes), **settings)
    experiment, _ = federation(config)
    experiment.run()
    return config, EditState.load(result_of(config))


def result_of(config: Any) -> Path:
    """Return the updates of a run: the shared ones, or the first client's own."""
    directory = Path(config.output_dir)
    if not STRATEGIES.get(config.strategy).personal:
        return directory / "edits.safetensors"
    (folder,) = (directory / "personal").iterdir()
    return folder / "client-0.safetensors"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strategy", STRATEGIES.names())
@pytest.mark.parametrize("editor", EDITORS.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_changes_only_its_state(
    family: str,
    editor: str,
    strategy: str,
    mode: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    directory = request.getfixturevalue(MODELS[family])
    settings: dict[str, Any] = {"editor": editor, "strategy": strategy, "mode": mode}
    config = run_config(directory, tmp_path / "none", tmp_path, **settings)
    model = load_model(config.model)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    config, state = run(directory, tmp_path, [3, 2], **settings)
    after = model.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert state.base == model.fingerprint
    assert state.round == 1
    assert all(torch.isfinite(update.dense()).all() for update in state.updates.values())
    row = read_json(Path(config.output_dir) / "metrics.json")
    assert (row["strategy"], row["editor"], row["mode"]) == (strategy, editor, mode)
    assert row["edits"] == 5
    assert row["payload"]["up_bytes"] > 0


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_the_same_command_gives_the_same_bits(
    strategy: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    states = [
        run(tiny_gpt2, tmp_path / str(place), [3, 2], strategy=strategy)[1] for place in range(2)
    ]
    assert states[0].fingerprint == states[1].fingerprint


@pytest.mark.parametrize("strategy", sorted({*STRATEGIES.names()} - {"ties"}))
def test_one_client_alone_gets_the_central_edit(
    strategy: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    found = run(tiny_gpt2, tmp_path / "one", [4], strategy=strategy)[1]
    central = run(tiny_gpt2, tmp_path / "central", [4], strategy="global")[1]
    for name, update in central.updates.items():
        torch.testing.assert_close(
            found.updates[name].dense(), update.dense(), rtol=1e-8, atol=1e-10
        )

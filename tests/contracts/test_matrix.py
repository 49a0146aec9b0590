"""What every editor, strategy and mode must keep in a federated run, whatever it does otherwise.

The lists come from the registries and the family table, so a new method is picked up by itself.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr.apps.preflight import check
from fleke_flwr.artifacts import read_json
from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS, EditMethod, Editor, UpdateEditor
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.families import FAMILIES
from fleke_flwr.models.loading import load_model
from fleke_flwr.modes import MODES
from fleke_flwr.state import EditState
from fleke_flwr.strategies import STRATEGIES, FederatedStrategy
from tests.apps.federation import federation, run_config, write_records
from tests.conftest import TinyFamily
from tests.contracts.recipes import own_settings

USUAL = ("memit", "collabedit", RunConfig().mode)
# Not the first: where attention and MLP stand side by side its keys know the token alone, so those
# of words outside the small corpus lie in directions that the covariance has never seen.
LAYERS = (1, 2)
CHEAP = {
    "edit.steps": 2,
    "contexts.count": 1,
    "covariance.tokens": 1000,
    "evaluation.text-tokens": 0,
}


def makes_sense(editor: type[EditMethod], strategy: type[FederatedStrategy]) -> bool:
    """Tell whether a strategy can merge what an editor gives."""
    if strategy.personal:
        return issubclass(editor, Editor)
    return strategy.pooled or not (strategy.solves and issubclass(editor, UpdateEditor))


def combinations(sensible: bool) -> list[tuple[str, str]]:
    """Return the pairs of editor and strategy that make sense, or the others."""
    return [
        pair
        for pair in product(EDITORS.names(), STRATEGIES.names())
        if makes_sense(EDITORS.get(pair[0]), STRATEGIES.get(pair[1])) == sensible
    ]


def in_pairs() -> list[tuple[str, str, str]]:
    """Return combinations in which every editor meets every strategy and mode, and these meet.

    At most two of the three are not the usual ones: three never meet in code either.
    """
    return [
        (editor, strategy, mode)
        for (editor, strategy), mode in product(combinations(sensible=True), MODES)
        if mode in EDITORS.get(editor).modes or mode == USUAL[2]
        if any(
            chosen == usual for chosen, usual in zip((editor, strategy, mode), USUAL, strict=True)
        )
    ]


def run(model: Path, directory: Path, sizes: list[int], **settings: Any) -> tuple[Any, EditState]:
    directory.mkdir(exist_ok=True)
    config = config_of(model, directory, sizes, **settings)
    experiment, _ = federation(config)
    experiment.run()
    return config, EditState.load(result_of(config))


def config_of(model: Path, directory: Path, sizes: list[int], **settings: Any) -> RunConfig:
    records = write_records(directory / "records.jsonl", sizes)
    config = run_config(model, records, directory, clients=len(sizes), **settings)
    own = own_settings(config.editor, load_model(config.model), directory, LAYERS)
    return RunConfig.from_flat({**config.to_flat(), **CHEAP, **own})


def result_of(config: RunConfig) -> Path:
    """Return the updates of a run: the shared ones, or the first client's own."""
    directory = Path(config.output_dir)
    if not STRATEGIES.get(config.strategy).personal:
        return directory / "edits.safetensors"
    (folder,) = (directory / "personal").iterdir()
    return folder / "client-0.safetensors"


def assert_runs(directory: Path, tmp_path: Path, editor: str, strategy: str, mode: str) -> None:
    model = load_model(run_config(directory, tmp_path, tmp_path).model)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    settings = {"editor": editor, "strategy": strategy, "mode": mode}
    config, state = run(directory, tmp_path, [3, 2], **settings)
    after = model.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert state.base == model.fingerprint
    assert state.round == 1
    assert state.updates
    assert all(torch.isfinite(update.dense()).all() for update in state.updates.values())
    row = read_json(Path(config.output_dir) / "metrics.json")
    known = EDITORS.get(editor).modes
    expected = (strategy, editor, mode if mode in known else known[0])
    assert (row["strategy"], row["editor"], row["mode"]) == expected
    assert row["edits"] == 5
    assert row["payload"]["up_bytes"] > 0


@pytest.mark.parametrize(("editor", "strategy", "mode"), in_pairs())
def test_a_run_changes_only_its_state(
    editor: str, strategy: str, mode: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    assert_runs(tiny_gpt2, tmp_path, editor, strategy, mode)


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"gpt2"}))
def test_a_run_edits_every_family(family: str, tiny_family: TinyFamily, tmp_path: Path) -> None:
    assert_runs(tiny_family(family), tmp_path, *USUAL)


@pytest.mark.parametrize(("editor", "strategy"), combinations(sensible=False))
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    editor: str, strategy: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_gpt2, tmp_path, [3, 2], editor=editor, strategy=strategy)
    with pytest.raises(ConfigError, match=f"'{editor}'.*'{strategy}'.*; choose "):
        check(config)
    experiment, grid = federation(config)
    with pytest.raises(ConfigError, match=f"'{editor}'.*'{strategy}'.*; choose "):
        experiment.run()
    assert not grid.sent
    assert not Path(config.output_dir, "metrics.json").exists()


def test_some_combinations_make_no_sense() -> None:
    refused = combinations(sensible=False)
    assert {("rome", "collabedit"), ("mend", "fededit"), ("malmen", "fededit")} <= set(refused)
    assert not {("malmen", "collabedit"), ("ft", "ties"), ("rome", "global")} & set(refused)
    assert not [editor for editor, _ in refused if editor in ("memit", "pmet", "alphaedit")]


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


@pytest.mark.parametrize("editor", EDITORS.names())
def test_every_editor_is_the_same_centrally_and_with_one_client(
    editor: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    strategy = "collabedit" if ("collabedit" in sensible_with(editor)) else "task_arithmetic"
    found = run(tiny_gpt2, tmp_path / "one", [4], editor=editor, strategy=strategy)[1]
    central = run(tiny_gpt2, tmp_path / "central", [4], editor=editor, strategy="global")[1]
    assert set(found.updates) == set(central.updates)
    for name, update in central.updates.items():
        torch.testing.assert_close(
            found.updates[name].dense(), update.dense(), rtol=1e-8, atol=1e-10
        )


def sensible_with(editor: str) -> list[str]:
    return [strategy for name, strategy in combinations(sensible=True) if name == editor]

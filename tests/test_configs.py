"""Every experiment that ships can be read and names methods and records that exist."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from fleke_flwr.apps.preflight import check, read_config
from fleke_flwr.config import RunConfig, load_config
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.errors import ConfigError
from fleke_flwr.strategies import STRATEGIES

EXPERIMENTS = sorted((Path(__file__).parents[1] / "configs" / "experiments").glob("*.toml"))


def test_the_documented_experiments_are_there() -> None:
    names = {path.stem for path in EXPERIMENTS}
    assert {"demo", "collabedit", "counterfact", "sweep", "layer_sync", "fedleke_zsre"} <= names
    assert {"table1", "clients", "modes", "capacity", "forgetting"} <= names
    assert {"overlap", "conflicts"} <= names


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_can_be_read(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    for name in config.strategy_names:
        assert STRATEGIES.get(name)
    assert EDITORS.get(config.editor)
    assert RunConfig.from_flat(config.to_flat()) == config


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_found_by_its_bare_name(path: Path) -> None:
    assert (files("fleke_flwr.configs") / "experiments" / path.name).is_file()
    assert read_config(path.stem, []).name == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_on_the_embedded_world_passes_the_checks(path: Path) -> None:
    config = read_config(str(path), [])
    if config.model.name:
        check(config)
    else:
        with pytest.raises(ConfigError, match="give model=DIRECTORY"):
            check(config)


def test_the_demo_stays_inside_the_capacity() -> None:
    demo = read_config("demo", [])
    assert demo.data.edits <= 0.65 * 1408
    assert demo.strategy_names[0] == "collabedit"
    assert "global" in demo.strategy_names


def test_every_preset_has_only_known_settings() -> None:
    known = {key.removeprefix("edit.") for key in RunConfig().to_flat() if key.startswith("edit.")}
    for path in (Path(__file__).parents[1] / "configs" / "models").glob("*.toml"):
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        for editor in EDITORS.names():
            own = known | {*EDITORS.get(editor).options}
            assert set(settings.pop(editor, {})) <= own, path
        assert set(settings) <= known, path

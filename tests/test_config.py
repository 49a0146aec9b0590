"""One schema for files, command line and Flower's run config; mistakes are named."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.config import (
    EditConfig,
    ModelConfig,
    RunConfig,
    SweepConfig,
    load_config,
    parse_overrides,
)
from fleke_flwr.errors import ConfigError
from fleke_flwr.spec import EditSpec, resolve_spec

OWN: dict[str, Any] = {
    "layers": [0, 1, 2],
    "ridge-weight": 100.0,
    "learning-rate": 1.0,
    "steps": 25,
    "clamp": 2.0,
    "weight-decay": 0.5,
    "kl-weight": 0.0625,
    "stop-loss": 0.05,
}
BAD_VALUES = [
    ("rounds", True, "of type bool; int is needed"),
    ("rounds", 1.5, "of type float; int is needed"),
    ("rounds", "2", "of type str; int is needed"),
    ("timeout", True, "of type bool; float is needed"),
    ("timeout", float("nan"), "finite"),
    ("edit.learning-rate", float("inf"), "finite"),
    ("data.balance", 1, "of type int; bool is needed"),
    ("evaluation.generate-every", True, "of type bool; int is needed"),
    ("strategy", 3, "of type int; str is needed"),
    ("edit.layers", [0, 1], '"0,1"'),
    ("rounds", [1], "of type list; int is needed"),
    ("model", "embedded", "is a section"),
    ("mode", "joints", "Did you mean 'joint'"),
    ("encoding", "factor", "Did you mean 'factors'"),
    ("payload-dtype", "float16", "Did you mean 'float"),
    ("edit.spread", "evenly", "Did you mean 'even'"),
    ("model.dtype", "double", "float64"),
    ("data.partition", "idd", "Did you mean 'iid'"),
    ("rounds", 0, "at least 1"),
    ("clients", 0, "at least 1"),
    ("min-clients", 9, "from 0"),
    ("data.edits", -1, "at least 0"),
    ("data.mix", 1.0, "from 0 to below 1"),
    ("data.mix-mode", "moved", "Did you mean 'move'"),
    ("data.concentration", 0.0, "above 0"),
    ("data.slot-order", "seed", "Did you mean 'seeded'"),
    ("data.zsre-target", "answer", "Did you mean 'answers'"),
    ("fededit.rule", "pool", "Did you mean 'pooled'"),
    ("fededit.exchange", "token", "Did you mean 'tokens'"),
    ("fededit.similarity", "key", "Did you mean 'keys'"),
    ("fededit.quantile", 1.5, "from 0 to 1"),
    ("fededit.noise", -0.1, "at least 0"),
    ("evaluation.every", -1, "at least 0"),
    ("sweep.key", "clients", "both sweep.key and sweep.values"),
    ("sweep.values", "1,2", "both sweep.key and sweep.values"),
    ("seed", -1, "at least 0"),
    ("timeout", 0, "more than 0"),
    ("edit.batch-tokens", 0, "at least 1"),
    ("contexts.count", -1, "at least 0"),
    ("contexts.length", 0, "at least 1"),
    ("covariance.tokens", 0, "at least 1"),
    ("evaluation.batch-tokens", -1, "at least 1"),
    ("edit.steps", -2, "-1 (the model's own)"),
    ("edit.learning-rate", -0.5, "-1 (the model's own)"),
]
SCALARS = st.one_of(st.integers(1, 99), st.floats(0.01, 9.0), st.text(max_size=9), st.booleans())


def toml(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_survive_the_flat_form() -> None:
    flat = RunConfig().to_flat()
    assert RunConfig.from_flat(flat) == RunConfig()
    assert flat["edit.ridge-weight"] == -1.0
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())


@given(data=st.data())
def test_every_value_either_survives_the_flat_form_or_is_refused(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(RunConfig().to_flat())))
    value = data.draw(SCALARS)
    try:
        config = RunConfig.from_flat({key: value})
    except ConfigError:
        return
    assert config.to_flat()[key] == value
    assert type(config.to_flat()[key]) is type(RunConfig().to_flat()[key])
    assert RunConfig.from_flat(config.to_flat()) == config


def test_a_whole_number_may_be_written_either_way() -> None:
    config = RunConfig.from_flat({"timeout": 60, "rounds": 2.0})
    assert (config.timeout, config.rounds) == (60.0, 2)
    assert isinstance(config.timeout, float)
    assert isinstance(config.rounds, int)


@pytest.mark.parametrize(("key", "value", "message"), BAD_VALUES)
def test_a_bad_value_is_refused_with_its_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        RunConfig.from_flat({key: value})
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("round", "rounds"), ("edit.ridge", "edit.ridge-weight"), ("data.pathh", "data.path")],
)
def test_an_unknown_key_names_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean '{re.escape(right)}'"):
        RunConfig.from_flat({wrong: 1})


def test_a_file_is_read_with_overrides_on_top(tmp_path: Path) -> None:
    path = toml(tmp_path, 'rounds = 3\n[edit]\nlayers = "1,2"\nclamp = 1\n')
    config = load_config(path, ["rounds=2", "model=there", "data=x.jsonl"])
    assert (config.name, config.rounds, config.edit.layers) == ("mine", 2, "1,2")
    assert (config.model.name, config.data.path) == ("there", "x.jsonl")
    assert config.edit.clamp == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [("rounds =", "not valid TOML"), ("[edit]\nlayers = [3, 4]", '"3,4"'), ("x = 1", "unknown")],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(toml(tmp_path, "") / "inside.toml")


def test_overrides_are_typed_like_their_defaults() -> None:
    pairs = ["rounds=2", "timeout=60", "data.balance=FALSE", "strategies=a,b", "name=7"]
    assert parse_overrides(pairs) == {
        "rounds": 2,
        "timeout": 60.0,
        "data.balance": False,
        "strategies": "a,b",
        "name": "7",
    }
    assert parse_overrides(["edit.preset=a=b"]) == {"edit.preset": "a=b"}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("rounds", "write key=value"),
        ("rounds=many", "a number is needed"),
        ("rounds=--2", "a number is needed"),
        ("rounds=1.5", "int is needed"),
        ("timeout=inf", "finite"),
        ("data.balance=1", "true or false"),
        ("min_clients=2", "Did you mean 'min-clients'"),
    ],
)
def test_a_wrong_override_is_refused(pair: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_overrides([pair])


def swept(key: str, values: str) -> RunConfig:
    return replace(RunConfig(), sweep=SweepConfig(key, values))


def test_what_a_run_holds_follows_from_its_lists() -> None:
    one = RunConfig(strategy="ties", editor="pmet")
    assert (one.strategy_names, one.editor_names) == (["ties"], ["pmet"])
    assert one.variants == [(None, one)]
    assert not one.is_comparison
    several = replace(one, strategies="a, b,", editors="memit,pmet")
    assert (several.strategy_names, several.editor_names) == (["a", "b"], ["memit", "pmet"])
    assert several.is_comparison
    assert replace(one, editors="memit").is_comparison


def test_a_sweep_is_one_configuration_for_each_value() -> None:
    config = swept("data.edits", "10, 20")
    assert config.is_comparison
    assert [value for value, _ in config.variants] == [10, 20]
    assert [variant.data.edits for _, variant in config.variants] == [10, 20]
    assert not any(variant.is_comparison for _, variant in config.variants)
    alphas = swept("fededit.alpha", "0.4,-1").variants
    assert [variant.fededit.alpha for _, variant in alphas] == [0.4, -1.0]


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("clients", "2,two", "a number is needed"),
        ("clients", "2,0", "at least 1"),
        ("client", "2", "Did you mean 'clients'"),
        ("model.name", "a,b", "cannot change within a run"),
        ("fededit.rule", "pooled,pool", "Did you mean 'pooled'"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(key: str, values: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        swept(key, values)


def test_all_clients_are_needed_unless_fewer_are_allowed() -> None:
    assert RunConfig(clients=5).needed_clients == 5
    assert RunConfig(clients=5, min_clients=3).needed_clients == 3


def test_a_recipe_takes_the_users_values_before_the_models() -> None:
    config = RunConfig(edit=EditConfig(layers="1,3", clamp=0.75, steps=0))
    spec = resolve_spec(config, OWN, ["{}", "So. {}"])
    assert (spec.layers, spec.clamp, spec.steps) == ((1, 3), 0.75, 0)
    assert (spec.ridge_weight, spec.learning_rate) == (100.0, 1.0)
    assert spec.contexts == ("{}", "So. {}")
    assert EditSpec.from_json(spec.to_json()) == spec


def test_a_recipe_that_nobody_gives_is_refused() -> None:
    config = RunConfig(model=ModelConfig(name="foreign"))
    with pytest.raises(ConfigError, match=r"'foreign'.*edit\.ridge-weight.*edit\.layers.*preset"):
        resolve_spec(config, {})


@pytest.mark.parametrize("layers", ["2,1", "1,1", "-1,2"])
def test_layers_must_ascend(layers: str) -> None:
    with pytest.raises(ConfigError, match="ascending, distinct"):
        resolve_spec(RunConfig(edit=EditConfig(layers=layers)), OWN)


@pytest.mark.parametrize(
    ("key", "value"),
    [("layers", "0,1"), ("layers", [0.5]), ("layers", 3), ("steps", 2.5), ("clamp", "big")],
)
def test_a_wrong_setting_of_the_model_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"own setting {key} = "):
        resolve_spec(RunConfig(), {**OWN, key: value})

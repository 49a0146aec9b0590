"""Where the numbers of an edit come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleke_flwr.apps.presets import read_preset
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.config import EditConfig, ModelConfig, RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.loading import load_model


def test_a_preset_wins_over_the_model_and_the_user_over_both(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    preset = tmp_path / "own.toml"
    preset.write_text("layers = [1]\nridge-weight = 7.0\nclamp = 3.0\n")
    edit = EditConfig(preset=str(preset), clamp=5.0)
    config = RunConfig(model=ModelConfig(name=str(tiny_gpt2)), edit=edit)
    spec = resolve_recipe(config, load_model(config.model))
    assert (spec.layers, spec.ridge_weight, spec.clamp) == ((1,), 7.0, 5.0)
    assert spec.contexts[0] == "{}"
    assert len(spec.contexts) == 1 + config.contexts.count


def test_a_shipped_preset_is_found_by_name() -> None:
    assert read_preset("gpt2-xl")["layers"] == [13, 14, 15, 16, 17]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ridge-wieght = 1.0\n", "Did you mean 'ridge-weight'"),
        ("layers = [1\n", "not valid TOML"),
    ],
)
def test_a_wrong_preset_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_preset(str(path))


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gpt2-xl'"):
        read_preset("gpt2xl")


def test_a_missing_preset_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_preset(str(tmp_path / "absent.toml"))

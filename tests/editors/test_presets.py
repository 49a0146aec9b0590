"""The settings that ship for known models are complete and say where they come from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fleke_flwr.config import RunConfig
from fleke_flwr.spec import resolve_spec

FOLDER = Path(__file__).parents[2] / "configs" / "models"
PRESETS = sorted(FOLDER.glob("*.toml"))


def test_the_known_models_are_there() -> None:
    names = {path.stem for path in PRESETS}
    assert {"gpt2-xl", "llama-2-7b", "llama-3-8b", "llama-3.2-3b"} <= names


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_complete(path: Path) -> None:
    settings = tomllib.loads(path.read_text(encoding="utf-8"))
    spec = resolve_spec(RunConfig(), settings)
    assert list(spec.layers) == settings["layers"]
    assert spec.kl_weight == 0.0625
    assert spec.ridge_weight >= 15000


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_number_has_a_source(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# MEMIT on ")
    for line in lines:
        if line and not line.startswith("#"):
            assert "/" in line.partition("#")[2], line

"""The settings that ship for known models are those of the literature, and name their sources.

The tables below are typed from the published files, independently of ``configs/models``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.apps.presets import read_preset
from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.families import FAMILIES
from fleke_flwr.spec import EditSpec, Wanted, resolve_spec

FOLDER = Path(__file__).parents[2] / "configs" / "models"
PRESETS = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
# Family and number of blocks, from the models' own configurations.
MODELS = {
    "gpt2-medium": ("gpt2", 24),
    "gpt2-large": ("gpt2", 36),
    "gpt2-xl": ("gpt2", 48),
    "gpt-j-6b": ("gptj", 28),
    "gpt-neox-20b": ("gpt_neox", 44),
    "llama-2-7b": ("llama", 32),
    "llama-3-8b": ("llama", 32),
    "llama-3.2-3b": ("llama", 28),
    "mistral-7b": ("mistral", 32),
    "qwen2-7b": ("qwen2", 28),
    "qwen2.5-7b": ("qwen2", 28),
}

# layers, lambda, learning rate, steps, clamp, weight decay, KL weight
GENERAL: Mapping[str, tuple[Any, ...]] = {
    "gpt2-xl": (range(13, 18), 2e4, 0.5, 20, 0.75, 0.5, 0.0625),
    "gpt-j-6b": (range(3, 9), 1.5e4, 0.5, 25, 0.75, 0.5, 0.0625),
    "gpt-neox-20b": (range(6, 11), 6e3, 0.5, 20, 0.8, 0.5, 0.0625),
    "llama-2-7b": (range(4, 9), 1.5e4, 0.5, 25, 4, 1e-3, 0.0625),
    "llama-3-8b": (range(4, 9), 1.5e4, 0.1, 25, 0.75, 0.5, 0.0625),
    "llama-3.2-3b": (range(4, 9), 1.5e4, 0.5, 25, 4, 1e-3, 0.0625),
    "mistral-7b": (range(4, 9), 1.5e4, 0.5, 25, 4, 1e-3, 0.0625),
    "qwen2-7b": (range(4, 9), 1.5e4, 0.5, 25, 4, 1e-3, 0.0625),
    "qwen2.5-7b": (range(4, 9), 1.5e4, 0.5, 25, 4, 1e-3, 0.0625),
}
PMET = {
    "gpt-j-6b": (range(3, 9), 6e3, 0.2, 30, 0.75, 0.5, 1),
    "gpt-neox-20b": (range(6, 11), 1.5e4, 0.5, 30, 0.8, 0.5, 0.8),
    "llama-2-7b": (range(4, 9), 1.5e4, 0.5, 20, 1, 0.5, 0.0625),
    "llama-3.2-3b": (range(4, 9), 1.5e4, 0.5, 25, 1, 0.5, 0.0625),
}
EMMET = {
    "gpt2-xl": ([17], 1e3, 0.5, 20, 0.75, 0.5, 0.0625),
    "gpt-j-6b": ([5], 1, 0.5, 25, 0.75, 0.5, 0.0625),
    "llama-2-7b": ([5], 1, 0.5, 25, 4, 1e-3, 0.0625),
    "llama-3.2-3b": ([5], 1e5, 0.5, 25, 4, 1e-3, 0.0625),
}
# layer, clamp, steps
ROME = {
    "gpt2-medium": (8, 3, 20),
    "gpt2-large": (12, 4, 20),
    "gpt2-xl": (17, 4, 20),
    "gpt-j-6b": (5, 4, 20),
    "gpt-neox-20b": (15, 4, 20),
}
# L2
ALPHAEDIT = {"gpt2-xl": 10, "gpt-j-6b": 10, "llama-3-8b": 10, "qwen2.5-7b": 1}
# layer, norm constraint (0: none), batch
FT = {
    "gpt2-medium": (0, 2e-3, 64),
    "gpt2-large": (0, 1e-3, 64),
    "gpt2-xl": (0, 5e-4, 64),
    "gpt-j-6b": (0, 5e-5, 64),
    "llama-2-7b": (21, 0, 1),
    "llama-3-8b": (21, 0, 1),
    "llama-3.2-3b": (21, 0, 1),
    "mistral-7b": (21, 5e-5, 1),
    "qwen2-7b": (27, 0, 1),
    "qwen2.5-7b": (27, 0, 1),
}
FT_W = {"gpt-j-6b": 21}
MEND = {
    "gpt2-xl": range(45, 48),
    "gpt-j-6b": range(25, 28),
    "llama-2-7b": range(29, 32),
    "llama-3-8b": range(29, 32),
    "mistral-7b": range(29, 32),
    "qwen2-7b": range(25, 28),
    "qwen2.5-7b": range(25, 28),
}
MALMEN = {"gpt2-xl": range(42, 48), "gpt-j-6b": range(22, 28)}
TABLES: Mapping[str, Mapping[str, Any]] = {
    "pmet": PMET,
    "emmet": EMMET,
    "rome": ROME,
    "alphaedit": ALPHAEDIT,
    "ft": FT,
    "ft_w": FT_W,
    "mend": MEND,
    "malmen": MALMEN,
}
OWN_TABLES = [(model, editor) for editor, models in TABLES.items() for model in models]


def spec_of(model: str, editor: str) -> EditSpec:
    """Return the recipe that an editor gets from a preset."""
    settings = read_preset(model)
    kind = EDITORS.get(editor)
    own = {**settings, **settings.get(editor, {})}
    return resolve_spec(RunConfig(editor=editor), own, wanted=Wanted(kind.settings, kind.options))


def numbers(spec: EditSpec) -> tuple[Any, ...]:
    return (
        list(spec.layers),
        spec.ridge_weight,
        spec.learning_rate,
        spec.steps,
        spec.clamp,
        spec.weight_decay,
        spec.kl_weight,
    )


def test_the_known_models_are_there() -> None:
    assert set(PRESETS) == set(MODELS)
    assert {family for family, _ in MODELS.values()} <= set(FAMILIES)


@pytest.mark.parametrize("model", GENERAL)
def test_general_settings_are_those_of_memit(model: str) -> None:
    found = spec_of(model, "memit")
    layers, *others = GENERAL[model]
    assert numbers(found) == (list(layers), *others)
    assert found.stop_loss == 0.05
    assert numbers(spec_of(model, "adaple")) == numbers(found)


@pytest.mark.parametrize("editor", ["pmet", "emmet"])
def test_tables_with_all_settings(editor: str) -> None:
    for model, (layers, *others) in TABLES[editor].items():
        assert numbers(spec_of(model, editor)) == (list(layers), *others), model
        assert spec_of(model, editor).stop_loss == 0.05


def test_emmet_is_told_how_equal() -> None:
    assert {spec_of(model, "emmet").options["equality"] for model in EMMET} == {0.1}


@pytest.mark.parametrize("model", ROME)
def test_rome(model: str) -> None:
    found = spec_of(model, "rome")
    layer, clamp, steps = ROME[model]
    assert (found.layers, found.clamp, found.steps) == ((layer,), clamp, steps)
    assert (found.learning_rate, found.weight_decay, found.kl_weight) == (0.5, 0.5, 0.0625)
    assert found.stop_loss == 0.05


@pytest.mark.parametrize("model", ALPHAEDIT)
def test_alphaedit(model: str) -> None:
    found = spec_of(model, "alphaedit")
    assert (found.options["nullspace-threshold"], found.options["l2"]) == (0.02, ALPHAEDIT[model])
    assert numbers(found) == numbers(spec_of(model, "memit"))


@pytest.mark.parametrize("model", FT)
def test_fine_tuning(model: str) -> None:
    found = spec_of(model, "ft")
    layer, constraint, batch = FT[model]
    assert (found.layers, found.learning_rate, found.steps) == ((layer,), 5e-4, 25)
    assert (found.options["norm-constraint"], found.options["batch"]) == (constraint, batch)
    assert (found.options["objective"], found.options["decay"]) == ("last", "none")
    assert found.stop_loss == 0.01


def test_fine_tuning_with_decay() -> None:
    found = spec_of("gpt-j-6b", "ft_w")
    assert (found.layers, found.learning_rate, found.steps) == ((21,), 5e-4, 25)
    assert (found.options["objective"], found.options["decay"]) == ("last", "power")
    assert (found.options["norm-constraint"], found.stop_loss) == (0, 0.01)


@pytest.mark.parametrize(("model", "editor"), [p for p in OWN_TABLES if p[1] in ("mend", "malmen")])
def test_layers_of_the_hyper_networks(model: str, editor: str) -> None:
    assert spec_of(model, editor).layers == tuple(TABLES[editor][model])


def test_no_table_is_there_that_is_not_published() -> None:
    found = {
        (model, name)
        for model, path in PRESETS.items()
        for name, value in tomllib.loads(path.read_text(encoding="utf-8")).items()
        if isinstance(value, dict)
    }
    assert found == set(OWN_TABLES)


@pytest.mark.parametrize("model", PRESETS)
def test_layers_lie_inside_the_model(model: str) -> None:
    blocks = MODELS[model][1]
    settings = read_preset(model)
    for table in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        assert all(0 <= layer < blocks for layer in table.get("layers", []))
    head = PRESETS[model].read_text(encoding="utf-8").partition("\n")[0]
    assert f", {blocks} blocks" in head


@pytest.mark.parametrize("model", sorted(set(MODELS) - set(GENERAL)))
def test_an_editor_without_published_settings_says_what_is_missing(model: str) -> None:
    with pytest.raises(ConfigError, match=r"no settings of its own for .*edit\.layers"):
        spec_of(model, "memit")


@pytest.mark.parametrize("model", PRESETS)
def test_every_number_has_a_source(model: str) -> None:
    lines = PRESETS[model].read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"# .+ \([\w.-]+/[\w.-]+\), \d+ blocks.*[.:\w]", lines[0])
    settings = [line for line in lines if " = " in line and not line.startswith("#")]
    assert settings
    for line in settings:
        assert re.search(r"#.* ?[\w.-]+/[\w.-]+", line), line

"""The recipe all clients follow: the user's settings, a preset's, the model's own."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from fleke_flwr.config import EditSpec, RunConfig, resolve_spec
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.contexts import sample_contexts
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.suggest import unknown


def resolve_recipe(config: RunConfig, model: EditableModel) -> EditSpec:
    """Complete the edit settings and sample the shared prefixes, once, on the server.

    Raises
    ------
    ConfigError
        If a setting is missing, or the preset is unknown.
    """
    settings = dict(model.settings)
    if config.edit.preset:
        settings.update(read_preset(config.edit.preset))
    contexts = settings.get("contexts") or sample_contexts(
        model, config.contexts.count, config.contexts.length, config.seed
    )
    return resolve_spec(config, settings, contexts)


def read_preset(name: str) -> dict[str, Any]:
    """Read ``configs/models/NAME.toml``, or a TOML file given by its path.

    Raises
    ------
    ConfigError
        If there is no such preset or file.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"edit.preset {name!r}: no such file")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    folder = files("fleke_flwr.configs") / "models"
    known = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir()}
    if name not in known:
        raise ConfigError(unknown("edit.preset", name, known))
    return tomllib.loads(known[name].read_text(encoding="utf-8"))

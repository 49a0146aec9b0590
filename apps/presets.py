"""Settings that belong to a model: its own, and a preset's on top."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fleke_flwr.config import TARGET_SETTINGS, RunConfig
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.suggest import unknown


def settings_of(config: RunConfig, model: EditableModel, editor: str) -> dict[str, Any]:
    """Return what a model and the run's preset say for one editor.

    Raises
    ------
    ConfigError
        If the preset is unknown or cannot be read.
    """
    settings = _for_editor(model.settings, editor)
    if config.edit.preset:
        settings.update(_for_editor(read_preset(config.edit.preset), editor))
    return settings


def read_preset(name: str) -> dict[str, Any]:
    """Read ``configs/models/NAME.toml``, or a TOML file given by its path.

    Raises
    ------
    ConfigError
        If there is no such preset or file, it is not TOML, or a key in it is unknown.
    """
    if name.endswith(".toml"):
        place: Traversable = Path(name)
        if not place.is_file():
            raise ConfigError(f"edit.preset {name!r}: no such file")
    else:
        folder = files("fleke_flwr.configs") / "models"
        known = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir()}
        if name not in known:
            raise ConfigError(unknown("edit.preset", name, known))
        place = known[name]
    try:
        settings = tomllib.loads(place.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"edit.preset {name!r}: not valid TOML ({error})") from error
    allowed = {"layers", "contexts", *(key.replace("_", "-") for key in TARGET_SETTINGS)}
    for editor, table in _tables(settings).items():
        own = EDITORS.get(editor).options if editor else {}
        for key in table:
            if key not in allowed and key not in own:
                raise ConfigError(
                    f"edit.preset {name!r}: {unknown('setting', key, {*allowed, *own})}"
                )
    return settings


def _for_editor(settings: Mapping[str, Any], editor: str) -> dict[str, Any]:
    """Return the general settings with the editor's own table, if there is one, on top."""
    own = settings.get(editor)
    return {**settings, **(own if isinstance(own, Mapping) else {})}


def _tables(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the general settings, named by an empty text, and every editor's own table."""
    own = {name: table for name, table in settings.items() if isinstance(table, Mapping)}
    return {"": {k: v for k, v in settings.items() if k not in own}, **own}

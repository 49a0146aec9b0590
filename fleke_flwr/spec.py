"""The recipe of an edit: the user's settings completed with the model's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fleke_flwr.config import TARGET_SETTINGS, UNSET, RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.values import comma_list, to_int, typed


@dataclass(frozen=True)
class EditSpec:
    """The resolved recipe of an edit, equal on all clients; travels as JSON.

    Parameters
    ----------
    editor, mode, spread : str
        See ``RunConfig``.
    layers : tuple[int, ...]
        Edited layers, ascending; target vectors live at the last.
    ridge_weight : float
        ``lambda``: weight of the covariance in the prior.
    learning_rate, steps, clamp, weight_decay, kl_weight, stop_loss
        Optimisation of the target vectors; ``clamp`` is in units of the hidden state's norm.
    contexts : tuple[str, ...]
        Templates with one ``{}``; the first is the bare ``"{}"``.
    batch_tokens : int
        Upper bound of the tokens in one forward pass.
    """

    editor: str
    mode: str
    layers: tuple[int, ...]
    ridge_weight: float
    spread: str
    learning_rate: float
    steps: int
    clamp: float
    weight_decay: float
    kl_weight: float
    stop_loss: float
    contexts: tuple[str, ...] = ("{}",)
    batch_tokens: int = 16384

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> EditSpec:
        """Rebuild from :meth:`to_json`."""
        content = json.loads(text)
        content["layers"] = tuple(content["layers"])
        content["contexts"] = tuple(content["contexts"])
        return cls(**content)


def resolve_spec(
    config: RunConfig, own: Mapping[str, Any], contexts: Iterable[str] = ("{}",)
) -> EditSpec:
    """Complete the edit settings with the model's own.

    Parameters
    ----------
    config : RunConfig
        What the user asked for; every set value wins.
    own : Mapping[str, Any]
        The model's own settings: kebab-case keys of ``[edit]`` with ``layers`` a list.
    contexts : Iterable[str]
        Shared prefix templates.

    Raises
    ------
    ConfigError
        If a setting is given neither by the user nor by the model.
    """
    chosen: dict[str, Any] = {}
    missing = []
    for name in TARGET_SETTINGS:
        asked = getattr(config.edit, name)
        key = name.replace("_", "-")
        if asked != UNSET:
            chosen[name] = asked
        elif key in own:
            chosen[name] = typed(f"own setting {key}", own[key], asked)
        else:
            missing.append(f"edit.{key}")
    layers = [to_int("edit.layers", item) for item in comma_list(config.edit.layers)]
    layers = layers or _own_layers(own.get("layers", []))
    if not layers:
        missing.append("edit.layers")
    if missing:
        raise ConfigError(
            f"model {config.model.name!r} has no settings of its own for {', '.join(missing)}; "
            "give them, or name a file of configs/models as edit.preset"
        )
    if layers != sorted(set(layers)) or layers[0] < 0:
        raise ConfigError(f"edit.layers = {layers}: need ascending, distinct layer numbers")
    return EditSpec(
        editor=config.editor,
        mode=config.mode,
        spread=config.edit.spread,
        layers=tuple(layers),
        contexts=tuple(contexts),
        batch_tokens=config.edit.batch_tokens,
        **chosen,
    )


def _own_layers(found: object) -> list[int]:
    if not isinstance(found, list) or not all(type(layer) is int for layer in found):
        raise ConfigError(f"own setting layers = {found!r}: a list of whole numbers is needed")
    return list(found)

"""The recipe of an edit: the user's settings completed with the model's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fleke_flwr.config import TARGET_SETTINGS, UNSET, RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.suggest import unknown
from fleke_flwr.values import Scalar, comma_list, named_texts, parse_value, to_int, typed


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
    options : Mapping[str, Scalar]
        Parameters that this editor alone has.
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
    options: Mapping[str, Scalar] = field(default_factory=dict)

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


@dataclass(frozen=True)
class Wanted:
    """What an editor's recipe is made of.

    Parameters
    ----------
    settings : tuple[str, ...]
        Fields of :class:`EditSpec` that must be given; other target settings are 0.
    options : Mapping[str, Scalar]
        The editor's own parameters with their defaults.
    """

    settings: tuple[str, ...] = TARGET_SETTINGS
    options: Mapping[str, Scalar] = field(default_factory=dict)


def resolve_spec(
    config: RunConfig,
    own: Mapping[str, Any],
    contexts: Iterable[str] = ("{}",),
    wanted: Wanted | None = None,
) -> EditSpec:
    """Complete the edit settings with the model's own.

    Parameters
    ----------
    config : RunConfig
        What the user asked for; every set value wins.
    own : Mapping[str, Any]
        The model's own settings: kebab-case keys of ``[edit]`` with ``layers`` a list, and the
        editor's own parameters.
    contexts : Iterable[str]
        Shared prefix templates.
    wanted : Wanted, optional
        What the editor needs; all target settings and no parameters unless given.

    Raises
    ------
    ConfigError
        If a setting is given neither by the user nor by the model, or the editor has no such
        parameter.
    """
    wanted = wanted or Wanted()
    chosen, missing = _chosen(config, own, wanted.settings)
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
        options=_options(config, own, wanted.options),
        **chosen,
    )


def _chosen(
    config: RunConfig, own: Mapping[str, Any], needed: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Return the target settings, and the names of those that are needed and given by nobody."""
    chosen: dict[str, Any] = {}
    missing = []
    for name in TARGET_SETTINGS:
        asked = getattr(config.edit, name)
        key = name.replace("_", "-")
        if asked != UNSET:
            chosen[name] = asked
        elif key in own:
            chosen[name] = typed(f"own setting {key}", own[key], asked)
        elif name in needed:
            missing.append(f"edit.{key}")
        else:
            chosen[name] = type(asked)(0)
    return chosen, missing


def _options(
    config: RunConfig, own: Mapping[str, Any], known: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """Return the editor's parameters: the user's, then the model's own, then the defaults."""
    found = {
        name: typed(f"own setting {name}", own.get(name, value), value)
        for name, value in known.items()
    }
    for name, text in named_texts("edit.options", config.edit.options).items():
        if name in known:
            found[name] = parse_value(f"edit.options: {name}", text, known[name])
        elif not config.editors:
            raise ConfigError(f"edit.options: {unknown('option', name, known)}")
    return found


def _own_layers(found: object) -> list[int]:
    if not isinstance(found, list) or not all(type(layer) is int for layer in found):
        raise ConfigError(f"own setting layers = {found!r}: a list of whole numbers is needed")
    return list(found)

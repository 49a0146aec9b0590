"""Parameters of a strategy's constructor, out of the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fleke_flwr.config import RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.strategies import FederatedStrategy
from fleke_flwr.suggest import unknown
from fleke_flwr.values import Scalar, named_texts, parse_value

Kind = type[FederatedStrategy]


def strategy_options(kind: Kind, config: RunConfig) -> dict[str, Any]:
    """Return what of ``[merge]``, ``[fededit]`` and ``merge.options`` a strategy takes."""
    accepted = inspect.signature(kind).parameters
    offered: dict[str, Any] = {**asdict(config.merge), "fededit": config.fededit}
    del offered["options"]
    own = _own(kind)
    for name, text in _named(config).items():
        if name in own:
            offered[name] = parse_value(f"merge.options: {name}", text, own[name])
    return {name: value for name, value in offered.items() if name in accepted}


def check_options(kinds: Mapping[str, Kind], config: RunConfig) -> None:
    """Refuse options that no strategy of a run takes, and values of the wrong type.

    Raises
    ------
    ConfigError
        Naming the nearest option.
    """
    known = {name for kind in kinds.values() for name in _own(kind)}
    for name in _named(config):
        if name not in known:
            raise ConfigError(f"merge.options: {unknown('option', name, known)}")
    for kind in kinds.values():
        strategy_options(kind, config)


def _own(kind: Kind) -> dict[str, Scalar]:
    """Return a strategy's parameters that a text can set, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if isinstance(parameter.default, bool | int | float | str)
    }


def _named(config: RunConfig) -> dict[str, str]:
    pairs = named_texts("merge.options", config.merge.options)
    return {name.replace("-", "_"): text for name, text in pairs.items()}

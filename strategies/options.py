"""Parameters of merging rules."""

from __future__ import annotations

from fleke_flwr.errors import ConfigError


def option(name: str, value: float, default: float, low: float, high: float) -> float:
    """Return a merging parameter: the rule's default when unset, refused outside its range."""
    if value == -1:
        return default
    if not low < value <= high:
        raise ConfigError(f"{name} = {value:g}: need a number above {low:g} and up to {high:g}")
    return value

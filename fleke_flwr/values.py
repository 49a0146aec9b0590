"""Values of a configuration: flat dotted names, types that are checked, texts that are parsed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fleke_flwr.errors import ConfigError
from fleke_flwr.suggest import unknown

Scalar = bool | int | float | str


def comma_list(text: str) -> list[str]:
    """Split a comma-separated string; empty items are dropped."""
    return [item.strip() for item in text.split(",") if item.strip()]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, keys dotted and in kebab case."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, Mapping):
            flat.update(flatten(value, name + "."))
        else:
            flat[name] = value
    return flat


def typed(key: str, value: Any, default: Scalar) -> Scalar:
    """Return the value in the type of the default; only a whole number may change its type.

    Raises
    ------
    ConfigError
        If the types differ or a number is not finite.
    """
    wanted = type(default)
    if _is_number_key(default) and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{key} = {value!r}: a finite number is needed")
        if isinstance(default, float) or float(value).is_integer():
            return wanted(value)
    elif isinstance(value, wanted) and isinstance(value, bool) == isinstance(default, bool):
        return value
    hint = ""
    if isinstance(value, list) and isinstance(default, str):
        hint = f'; write the items as one text: "{",".join(str(item) for item in value)}"'
    raise ConfigError(
        f"{key} = {value!r} is of type {type(value).__name__}; {wanted.__name__} is needed{hint}"
    )


def _is_number_key(default: Scalar) -> bool:
    return isinstance(default, int | float) and not isinstance(default, bool)


def parse_value(key: str, text: str, default: Scalar) -> Scalar:
    """Read a text from the command line in the type of the default.

    Raises
    ------
    ConfigError
        If it cannot be read so.
    """
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key} = {text!r}: write true or false")
        return text.lower() == "true"
    if isinstance(default, str):
        return text
    try:
        return typed(key, float(text) if not text.lstrip("-").isdigit() else int(text), default)
    except ValueError as error:
        raise ConfigError(f"{key} = {text!r}: a number is needed") from error


def named_texts(key: str, text: str) -> dict[str, str]:
    """Read ``name=value`` pairs separated by commas; names are put into kebab case.

    Raises
    ------
    ConfigError
        If a pair has no ``=``.
    """
    found = {}
    for pair in comma_list(text):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{key}: {pair!r}; write name=value, separated by commas")
        found[name.strip().replace("_", "-")] = value.strip()
    return found


def to_int(key: str, text: str) -> int:
    """Read a whole number.

    Raises
    ------
    ConfigError
        If the text is none.
    """
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {text!r} is not a whole number") from error


def one_of(key: str, found: str, known: tuple[str, ...]) -> None:
    """Check a choice.

    Raises
    ------
    ConfigError
        If it is unknown, naming the nearest known one.
    """
    if found not in known:
        raise ConfigError(unknown(key, found, known))

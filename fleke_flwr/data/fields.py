"""Take typed fields out of a JSON object, or say what was found there instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleke_flwr.errors import RequestError
from fleke_flwr.types import Probe


def text(record: Mapping[str, Any], key: str) -> str:
    """Return a text.

    Raises
    ------
    RequestError
        If the field is missing or of another type, as all functions here.
    """
    value = record.get(key)
    if not isinstance(value, str):
        raise RequestError(f"field {key!r} is {value!r}; a text is needed")
    return value


def filled_text(record: Mapping[str, Any], key: str) -> str:
    """Return a text that is not blank."""
    value = text(record, key)
    if not value.strip():
        raise RequestError(f"field {key!r} is {value!r}; a text is needed, not an empty one")
    return value


def optional_text(record: Mapping[str, Any], key: str) -> str:
    """Return a text without space around it, empty where there is none."""
    return "" if record.get(key) is None else text(record, key).strip()


def identifier(record: Mapping[str, Any], key: str, default: str) -> str:
    """Return a name, which may be a number."""
    value = record.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RequestError(f"field {key!r} is {value!r}; a text or a whole number is needed")
    return str(value)


def mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object."""
    value = record.get(key)
    if not isinstance(value, Mapping):
        raise RequestError(f"field {key!r} is {value!r}; an object is needed")
    return value


def texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of texts, none blank; nothing counts as an empty list."""
    values = [] if record.get(key) is None else record[key]
    if not isinstance(values, list) or not all(map(_is_filled, values)):
        raise RequestError(f"field {key!r} is {values!r}; a list of texts is needed, none empty")
    return tuple(values)


def probes(record: Mapping[str, Any], key: str) -> tuple[Probe, ...]:
    """Return a list of prompts with their answers; nothing counts as an empty list."""
    values = [] if record.get(key) is None else record[key]
    if not isinstance(values, list) or not all(map(_is_probe, values)):
        raise RequestError(
            f"field {key!r} is {values!r}; a list of objects with the texts "
            "'prompt' and 'target' is needed, none empty"
        )
    return tuple(Probe(value["prompt"], value["target"]) for value in values)


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_probe(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_filled(value.get(key)) for key in ("prompt", "target")
    )

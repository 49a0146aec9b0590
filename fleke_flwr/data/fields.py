"""Take typed fields out of a JSON object, or say what was found there instead."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

from fleke_flwr.errors import RequestError
from fleke_flwr.types import Probe

# Half of a surrogate pair cannot be written as UTF-8, and the end of a C string is no text.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """Return a value for an error message: short, however deep or long it is."""
    return _SHORT.repr(value)


def text(record: Mapping[str, Any], key: str) -> str:
    """Return a text.

    Raises
    ------
    RequestError
        If the field is missing or of another type, as all functions here.
    """
    value = record.get(key)
    if not isinstance(value, str):
        raise RequestError(f"field {key!r} is {shown(value)}; a text is needed")
    _check_characters(key, value)
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
    """Return a name without space around it, which may be a number; the default where none is."""
    value = record.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RequestError(f"field {key!r} is {shown(value)}; a text or a whole number is needed")
    name = str(value).strip()
    _check_characters(key, name)
    return name or default


def mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object."""
    value = record.get(key)
    if not isinstance(value, Mapping):
        raise RequestError(f"field {key!r} is {shown(value)}; an object is needed")
    return value


def texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of texts, none blank; nothing counts as an empty list."""
    values = [] if record.get(key) is None else record[key]
    if not isinstance(values, list) or not all(map(_is_filled, values)):
        raise RequestError(
            f"field {key!r} is {shown(values)}; a list of texts is needed, none empty"
        )
    for value in values:
        _check_characters(key, value)
    return tuple(values)


def probes(record: Mapping[str, Any], key: str) -> tuple[Probe, ...]:
    """Return a list of prompts with their answers; nothing counts as an empty list."""
    values = [] if record.get(key) is None else record[key]
    if not isinstance(values, list) or not all(map(_is_probe, values)):
        raise RequestError(
            f"field {key!r} is {shown(values)}; a list of objects with the texts "
            "'prompt' and 'target' is needed, none empty"
        )
    for value in values:
        _check_characters(key, value["prompt"] + value["target"])
    return tuple(Probe(value["prompt"], value["target"]) for value in values)


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_probe(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_filled(value.get(key)) for key in ("prompt", "target")
    )


def _check_characters(key: str, value: str) -> None:
    found = _NO_TEXT.search(value)
    if found:
        raise RequestError(
            f"field {key!r} holds the character U+{ord(found[0]):04X}, which no text can hold; "
            "remove it"
        )

"""Read the records of a data file, each with the place it stands at."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from fleke_flwr.data.rows import Row
from fleke_flwr.data.tables import read_table
from fleke_flwr.errors import DataError

_TABLES = (".csv", ".tsv")


def read_file(path: Path, owner: str) -> Iterator[Row]:
    """Yield every record of JSON Lines, a JSON list, or a table with a header; also gzipped.

    Parameters
    ----------
    path : Path
        ``.csv`` and ``.tsv`` are tables, everything else is JSON; ``.gz`` behind it is unpacked.
    owner : str
        The column of a table that names the owner.

    Raises
    ------
    DataError
        If the file as a whole is of no use: it is missing, is not UTF-8, is a broken JSON list, or
        is a table whose columns are of no schema. What is wrong with one record is in its row.
    """
    text = _text(path)
    if path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix.lower() in _TABLES:
        return read_table(str(path), text, owner)
    if text.lstrip().startswith("["):
        content = _json(path, text)
        return (Row(f"record {index}", value) for index, value in enumerate(content))
    # Not splitlines(): JSON texts may hold the other characters that it takes for line ends.
    return (
        _line(path, line, number)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    )


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError(f"data file {path}: no such file")
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"data file {path}: cannot be read as UTF-8 text ({error})") from error


def _line(path: Path, line: str, number: int) -> Row:
    place = f"line {number}"
    try:
        return Row(place, _json(path, line, number))
    except DataError as error:
        return Row(place, error=error)


def _json(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = line if line is not None else error.lineno
        raise DataError(
            f"{path}, line {place}: not valid JSON ({error.msg} at column {error.colno})"
        ) from error
    except (RecursionError, ValueError) as error:
        place = line if line is not None else 1
        raise DataError(f"{path}, line {place}: JSON that cannot be read ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, of whose keys none may stand twice: one of the two would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shortened(twice)} stands twice in one object; keep one")
    return found

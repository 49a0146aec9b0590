"""Read the JSON objects of a data file, each with the place it stands at."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleke_flwr.errors import DataError


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield place and value of every record: of JSON Lines or of a JSON list, also gzipped.

    Raises
    ------
    DataError
        If the file is missing, cannot be read as UTF-8, or is not JSON; the line is named.
    """
    if not path.is_file():
        raise DataError(f"data file {path}: no such file")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"data file {path}: cannot be read as UTF-8 text ({error})") from error
    if text.lstrip().startswith("["):
        return ((f"record {index}", record) for index, record in enumerate(_json(path, text)))
    # Not splitlines(): JSON texts may hold the other characters that it takes for line ends.
    return (
        (f"line {number}", _json(path, line, number))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    )


def _json(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = line if line is not None else error.lineno
        raise DataError(
            f"{path}, line {place}: not valid JSON ({error.msg} at column {error.colno})"
        ) from error
    except (RecursionError, ValueError) as error:
        place = line if line is not None else 1
        raise DataError(f"{path}, line {place}: JSON that cannot be read ({error})") from error

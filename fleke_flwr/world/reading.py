"""Read a file of records in one of the schemas, and plain text."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

from fleke_flwr.errors import DataError
from fleke_flwr.world.entries import Schema, check_entry, schema_of_record
from fleke_flwr.world.schema import Record

_FEWEST_WORDS, _MOST_WORDS = 5, 22


def schema_of(path: Path) -> Schema:
    """Return the schema of a file of records, by its first record.

    Raises
    ------
    DataError
        If the file cannot be read, or its first record is of no schema that is known.
    """
    content, places = _read_content(path)
    schema = schema_of_record(content[0])
    if schema is None:
        raise DataError(
            f"{path}, {places[0]}: neither requested_rewrite, as in CounterFact, nor src, as in "
            "zsRE, nor edit with a conflict_object, as in CollabEdit, is a field of it; give "
            "records in one of these schemas"
        )
    return schema


def read_records(path: Path, schema: Schema = Schema.COUNTERFACT) -> list[Record]:
    """Read records of one schema from JSON or JSON Lines, gzipped or not.

    Raises
    ------
    DataError
        If the file is missing, is not JSON, or a record lacks what is needed or is of another
        schema; says where.
    """
    content, places = _read_content(path)
    for place, record in zip(places, content, strict=True):
        check_entry(f"{path}, {place}", record, schema)
    return [
        record | {"case_id": record.get("case_id", index)} for index, record in enumerate(content)
    ]


def read_prose(path: Path) -> list[str]:
    """Read plain text, gzipped or not, and return its sentences of ordinary length.

    Lines with markup of headings or tokenised numbers (``=``, ``@``) are left out.

    Raises
    ------
    DataError
        If the file is missing or has no such sentence.
    """
    sentences: dict[str, None] = {}
    for line in _read(path).splitlines():
        for text in re.split(r"(?<=[.!?])\s+", line.strip()):
            plain = not re.search(r"[=@{}]", text)
            if plain and _FEWEST_WORDS <= len(text.split()) <= _MOST_WORDS:
                sentences[text] = None
    if not sentences:
        raise DataError(
            f"{path}: no sentence of {_FEWEST_WORDS} to {_MOST_WORDS} words; give ordinary prose"
        )
    return list(sentences)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (IsADirectoryError, gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error


def _read_content(path: Path) -> tuple[list[Any], list[str]]:
    """Return the records of a file, one at least, and the place of each."""
    text = _read(path)
    if text.lstrip().startswith("["):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from error
        places = [f"record {index}" for index in range(1, len(content) + 1)]
    else:
        content, places = _read_lines(path, text)
    if not content:
        raise DataError(
            f"{path}: no records; give a file in a schema of CounterFact, zsRE or CollabEdit"
        )
    return content, places


def _read_lines(path: Path, text: str) -> tuple[list[Any], list[str]]:
    content, places = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            content.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error.msg}") from error
        places.append(f"line {number}")
    return content, places

"""Read a file of records in the CounterFact schema, and plain text."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

from fleke_flwr.errors import DataError
from fleke_flwr.world.schema import Record

_FEWEST_WORDS, _MOST_WORDS = 5, 22


def read_records(path: Path) -> list[Record]:
    """Read records from JSON or JSON Lines, gzipped or not.

    Raises
    ------
    DataError
        If the file is missing, is not JSON, or a record lacks what is needed; says where.
    """
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
        raise DataError(f"{path}: no records; give a file in the CounterFact schema")
    for place, record in zip(places, content, strict=True):
        _check(f"{path}, {place}", record)
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


def _check(where: str, record: Any) -> None:
    try:
        rewrite = record["requested_rewrite"]
        parts = {
            "prompt": rewrite["prompt"],
            "subject": rewrite["subject"],
            "target_true": rewrite["target_true"]["str"],
            "target_new": rewrite["target_new"]["str"],
        }
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where}: {error} is missing; a record needs requested_rewrite with prompt, subject, "
            "target_true.str and target_new.str"
        ) from error
    for name, value in parts.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: {name} is {value!r}; write a text")
    if parts["prompt"].count("{}") != 1:
        raise DataError(f"{where}: prompt {parts['prompt']!r} needs exactly one slot '{{}}'")

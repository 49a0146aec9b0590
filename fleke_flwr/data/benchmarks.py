"""Load edit records: the embedded world's, CounterFact files, a user's own JSON Lines."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fleke_flwr.config import DataConfig
from fleke_flwr.data.schema import read_record
from fleke_flwr.errors import DataError, RequestError
from fleke_flwr.types import EvalCase

EMBEDDED = "embedded"


@dataclass(frozen=True)
class CaseSet:
    """The records of one source.

    Parameters
    ----------
    cases : tuple[EvalCase, ...]
        In file order.
    skipped : Mapping[str, int]
        How many records were left out, by reason.
    name : str
        What the user called the source.
    fingerprint : str
        Hash of the cases' content.
    """

    cases: tuple[EvalCase, ...]
    skipped: Mapping[str, int]
    name: str
    fingerprint: str


def load_cases(data: DataConfig) -> CaseSet:
    """Load records by the name ``embedded`` or from a file, plain or compressed with gzip.

    A file is JSON Lines or a JSON list, in CounterFact's schema or with the fields of
    :class:`EditRequest`. A record that repeats the subject and prompt of an earlier one is left out
    and counted, since one batch cannot hold two answers: with the same target as ``duplicate``,
    with another as ``conflict``.

    Raises
    ------
    DataError
        If the file is missing, holds no record, or a record is wrong; file and line are named.
    """
    path = data.path
    if path == EMBEDDED:
        from fleke_flwr.world import embedded_records

        numbered: Iterable[tuple[str, Any]] = (
            (f"record {index}", record) for index, record in enumerate(embedded_records())
        )
    else:
        numbered = _read_file(Path(path).expanduser())
    cases: list[EvalCase] = []
    skipped: Counter[str] = Counter()
    targets: dict[tuple[str, str], str] = {}
    for index, (place, record) in enumerate(numbered):
        case = _read(path, place, record, index)
        key = (case.request.prompt, case.request.subject)
        if key in targets:
            skipped["duplicate" if targets[key] == case.request.target else "conflict"] += 1
            continue
        targets[key] = case.request.target
        cases.append(case)
    if not cases:
        raise DataError(f"{path}: holds no record; one JSON object per line is needed")
    return CaseSet(tuple(cases), dict(skipped), path, _fingerprint(cases))


def _read(path: str, place: str, record: Any, index: int) -> EvalCase:
    if not isinstance(record, dict):
        raise DataError(f"{path}, {place}: found {type(record).__name__}, a JSON object is needed")
    try:
        return read_record(record, index)
    except RequestError as error:
        raise RequestError(f"{path}, {place}: {error}") from error


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
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


def _fingerprint(cases: Iterable[EvalCase]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        digest.update(json.dumps(asdict(case), sort_keys=True).encode())
    return digest.hexdigest()[:16]

"""Load edit records: the embedded world's, those of benchmark files, a user's own JSON Lines."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fleke_flwr.config import DataConfig
from fleke_flwr.data.files import read_file
from fleke_flwr.data.schema import protocol_of, read_record
from fleke_flwr.errors import DataError, RequestError
from fleke_flwr.suggest import unknown
from fleke_flwr.types import EvalCase
from fleke_flwr.values import comma_list

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
    protocol : str
        How they are judged: ``counterfact`` or ``zsre``.
    """

    cases: tuple[EvalCase, ...]
    skipped: Mapping[str, int]
    name: str
    fingerprint: str
    protocol: str


def load_cases(data: DataConfig) -> CaseSet:
    """Load the records of ``data.path``: ``embedded``, or a file, plain or packed with gzip.

    A file is JSON Lines or a JSON list, in the schema of CounterFact, of zsRE (not mixed with the
    others, which are judged differently), of CollabEdit's conflicts, or with the fields of
    :class:`EditRequest`. What is left out is counted by reason: zsRE records without another
    answer to edit to, conflicts between near duplicates, records of other relations than
    ``data.relations``, and a record that repeats the subject and prompt of an earlier one, since
    one batch cannot hold two answers (with the same target it is a ``duplicate``, with another a
    ``conflict``).

    Raises
    ------
    DataError
        If the file is missing, holds no usable record, or a record is wrong; file and line are
        named. If no record has a relation that ``data.relations`` asks for.
    """
    skipped: Counter[str] = Counter()
    read, protocol = _read_all(data, skipped)
    wanted = _of_relations(read, data, skipped)
    cases = _without_repeats(wanted, skipped)
    if not cases:
        raise DataError(_nothing(data.path, skipped))
    return CaseSet(tuple(cases), dict(skipped), data.path, _fingerprint(cases), protocol)


def _read_all(data: DataConfig, skipped: Counter[str]) -> tuple[list[EvalCase], str]:
    cases: list[EvalCase] = []
    protocol = ""
    for index, (place, record) in enumerate(_numbered(data.path)):
        where = f"{data.path}, {place}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: found {type(record).__name__}, a JSON object is needed")
        found = protocol_of(record)
        if protocol and found != protocol:
            raise DataError(
                f"{where}: a record of protocol {found} after others of protocol {protocol}; "
                "they are judged differently, so give each its own file"
            )
        protocol = found
        try:
            case = read_record(record, index, data)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from error
        if isinstance(case, str):
            skipped[case] += 1
        else:
            cases.append(case)
    return cases, protocol


def _numbered(path: str) -> Iterable[tuple[str, Any]]:
    if path != EMBEDDED:
        return read_file(Path(path).expanduser())
    from fleke_flwr.world import embedded_records

    return ((f"record {index}", record) for index, record in enumerate(embedded_records()))


def _of_relations(
    cases: Sequence[EvalCase], data: DataConfig, skipped: Counter[str]
) -> list[EvalCase]:
    wanted = set(comma_list(data.relations))
    if not wanted:
        return list(cases)
    known = {case.request.relation for case in cases} - {""}
    if not known:
        raise DataError(
            f"{data.path}: data.relations = {data.relations!r}, but no record has a relation; "
            "leave data.relations out"
        )
    strange = sorted(wanted - known)
    if strange:
        raise DataError(f"{data.path}: data.relations: {unknown('relation', strange[0], known)}")
    kept = [case for case in cases if case.request.relation in wanted]
    if len(kept) < len(cases):
        skipped["of another relation"] += len(cases) - len(kept)
    return kept


def _without_repeats(cases: Sequence[EvalCase], skipped: Counter[str]) -> list[EvalCase]:
    kept: list[EvalCase] = []
    targets: dict[tuple[str, str], str] = {}
    for case in cases:
        key = (case.request.prompt, case.request.subject)
        if key in targets:
            skipped["duplicate" if targets[key] == case.request.target else "conflict"] += 1
            continue
        targets[key] = case.request.target
        kept.append(case)
    return kept


def _nothing(path: str, skipped: Mapping[str, int]) -> str:
    if not skipped:
        return f"{path}: holds no record; one JSON object per line is needed"
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    return f"{path}: holds no usable record; left out: {reasons}"


def _fingerprint(cases: Iterable[EvalCase]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        digest.update(json.dumps(asdict(case), sort_keys=True).encode())
    return digest.hexdigest()[:16]

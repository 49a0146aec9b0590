"""Load edit records: the embedded world's, those of benchmark files or the hub, a user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from fleke_flwr.config import DataConfig
from fleke_flwr.data.readings import EMBEDDED, Reading, chosen, left_out, readings
from fleke_flwr.errors import DataError
from fleke_flwr.types import EvalCase

__all__ = ["EMBEDDED", "CaseSet", "load_cases"]


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
    """Load the records of ``data.path``: ``embedded``, a data set of the hub, or a file.

    A file is JSON Lines, a JSON list or a table, also packed with gzip; see ``read_file``. Its
    records are in the schema of CounterFact, of zsRE (not mixed with the others, which are judged
    differently), of CollabEdit's conflicts, or have the fields of :class:`EditRequest`. What is
    left out is counted by reason: zsRE records without another answer to edit to, conflicts between
    near duplicates, records of other relations than ``data.relations``, and a record that repeats
    the subject and prompt of an earlier one, since one batch cannot hold two answers (with the same
    target it is a ``duplicate``, with another a ``conflict``).

    Raises
    ------
    DataError
        If the file is missing, holds no usable record, or a record is wrong; file and line are
        named. If no record has a relation that ``data.relations`` asks for.
    """
    read = chosen([_sound(reading) for reading in readings(data)], data)
    found = [_sound(reading) for reading in read if not reading.left_out]
    cases = tuple(reading.case for reading in found if reading.case)
    skipped = left_out(read)
    if not cases:
        raise DataError(nothing_found(data.path, skipped))
    return CaseSet(cases, skipped, data.path, _fingerprint(cases), read[0].protocol)


def nothing_found(path: str, skipped: Mapping[str, int]) -> str:
    """Say that a source holds nothing to edit, and why."""
    if not skipped:
        return f"{path}: holds no record; one JSON object per line is needed, or a table's lines"
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    return f"{path}: holds no usable record; left out: {reasons}"


def _sound(reading: Reading) -> Reading:
    if reading.error is not None:
        raise reading.error
    return reading


def _fingerprint(cases: Iterable[EvalCase]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        digest.update(json.dumps(asdict(case), sort_keys=True).encode())
    return digest.hexdigest()[:16]

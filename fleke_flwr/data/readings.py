"""Make cases of the records of a source, one after the other, and keep going where one is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleke_flwr.config import DataConfig
from fleke_flwr.data.files import read_file
from fleke_flwr.data.hub import HUB, read_hub
from fleke_flwr.data.rows import Row
from fleke_flwr.data.schema import protocol_of, read_record, schema_of
from fleke_flwr.errors import DataError, RequestError
from fleke_flwr.suggest import unknown
from fleke_flwr.types import EvalCase
from fleke_flwr.values import comma_list

EMBEDDED = "embedded"
DUPLICATE, CONFLICT = "duplicate", "conflict"
OTHER_RELATION = "of another relation"


@dataclass(frozen=True)
class Reading:
    """What became of one record.

    Parameters
    ----------
    place : str
        Where it stands in its source.
    schema : str
        Of the record; empty if it is no JSON object.
    protocol : str
        How such records are judged; empty if it is no JSON object.
    case : EvalCase or None
        The case, unless there is none to be made.
    left_out : str
        Why a sound record is left out; empty if it is not.
    repeats : str
        Place of the earlier record that asks the same question, if it is left out for that.
    error : DataError or None
        What is wrong with it, with source and place.
    """

    place: str
    schema: str = ""
    protocol: str = ""
    case: EvalCase | None = None
    left_out: str = ""
    repeats: str = ""
    error: DataError | None = None


def readings(data: DataConfig) -> Iterator[Reading]:
    """Yield what is made of every record of ``data.path``; :func:`chosen` leaves some out.

    Raises
    ------
    DataError
        If the source as a whole cannot be read. What is wrong with one record is in its reading.
    """
    protocol = ""
    for index, row in enumerate(_rows(data)):
        reading = _reading(row, index, data)
        if protocol and reading.protocol not in ("", protocol):
            wrong = (
                f"{data.path}, {row.place}: a record of protocol {reading.protocol} after others "
                f"of protocol {protocol}; they are judged differently, so give each its own file"
            )
            reading = replace(reading, case=None, left_out="", error=DataError(wrong))
        protocol = protocol or reading.protocol
        yield reading


def chosen(read: Sequence[Reading], data: DataConfig) -> list[Reading]:
    """Leave out records of other relations, and those that repeat the question of an earlier one.

    Raises
    ------
    DataError
        If no record has a relation that ``data.relations`` asks for.
    """
    return _without_repeats(_of_relations(read, data), data.path)


def left_out(read: Sequence[Reading]) -> dict[str, int]:
    """Count what is left out, by reason."""
    return dict(Counter(reading.left_out for reading in read if reading.left_out))


def _rows(data: DataConfig) -> Iterator[Row]:
    if data.path == EMBEDDED:
        from fleke_flwr.world import embedded_records

        records = enumerate(embedded_records())
        return (Row(f"record {index}", record) for index, record in records)
    if data.path.startswith(HUB):
        return read_hub(data.path, data.split, data.owner)
    try:
        path = Path(data.path).expanduser()
    except RuntimeError as error:
        raise DataError(f"data file {data.path}: {error}; write the whole path") from error
    return read_file(path, data.owner)


def _reading(row: Row, index: int, data: DataConfig) -> Reading:
    if row.error is not None:
        return Reading(row.place, error=row.error)
    where = f"{data.path}, {row.place}"
    if not isinstance(row.value, dict):
        kind = type(row.value).__name__
        wrong = f"{where}: found {kind}, a JSON object is needed"
        return Reading(row.place, error=DataError(wrong))
    bare = Reading(row.place, schema_of(row.value), protocol_of(row.value))
    try:
        found = read_record(row.value, index, data)
    except RequestError as error:
        wrong_request = RequestError(f"{where}: {_shortened(str(error))}")
        wrong_request.__cause__ = error
        return replace(bare, error=wrong_request)
    return replace(bare, left_out=found) if isinstance(found, str) else replace(bare, case=found)


def _shortened(message: str) -> str:
    """Cut the middle out of a message that quotes a very long text."""
    return message if len(message) <= 1000 else f"{message[:600]} ... {message[-300:]}"


def _of_relations(read: Sequence[Reading], data: DataConfig) -> list[Reading]:
    wanted = set(comma_list(data.relations))
    if not wanted:
        return list(read)
    known = {reading.case.request.relation for reading in read if reading.case} - {""}
    if not known:
        raise DataError(
            f"{data.path}: data.relations = {data.relations!r}, but no record has a relation; "
            "leave data.relations out"
        )
    strange = sorted(wanted - known)
    if strange:
        raise DataError(f"{data.path}: data.relations: {unknown('relation', strange[0], known)}")
    return [
        replace(reading, left_out=OTHER_RELATION)
        if reading.case and reading.case.request.relation not in wanted
        else reading
        for reading in read
    ]


def _without_repeats(read: Sequence[Reading], source: str) -> list[Reading]:
    """Mark repeated questions, and refuse a second record under one name."""
    questions: dict[tuple[str, str], tuple[str, str]] = {}
    names: dict[str, str] = {}
    result: list[Reading] = []
    for reading in read:
        if reading.case is None or reading.left_out:
            result.append(reading)
            continue
        request = reading.case.request
        place, target = questions.setdefault(
            (request.prompt, request.subject), (reading.place, request.target)
        )
        if place != reading.place:
            why = DUPLICATE if target == request.target else CONFLICT
            reading = replace(reading, left_out=why, repeats=place)
        elif names.setdefault(request.case_id, reading.place) != reading.place:
            wrong = RequestError(
                f"{source}, {reading.place}: case_id {request.case_id!r} is also that of "
                f"{names[request.case_id]}; give every record its own, or none to any"
            )
            reading = replace(reading, case=None, error=wrong)
        result.append(reading)
    return result

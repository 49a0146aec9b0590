"""Measurements, as sums over records that add up over clients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flwr.app import MetricRecord, RecordDict

from fleke_flwr.errors import PayloadError
from fleke_flwr.wire.tensors import read_name, shown

# Sum, sum of squares and count of a metric over records: what adds up over clients.
Sums = Mapping[str, tuple[float, float, int]]
# Metric records of a reply: this followed by the group of records that was measured.
MEASUREMENTS = "measurements-"
OWN, ALL, RECEIVED, FIRST = "own", "all", "received", "first"
# Groups that are measured when conflicts are settled.
PAIRS, UNRELATED = "pairs", "unrelated"


def write_sums(sums: Sums) -> MetricRecord:
    """Pack sums, sums of squares and counts per metric, which add up over clients."""
    record: dict[str, int | float | list[int] | list[float]] = {}
    for name, (total, squares, count) in sums.items():
        record[name] = [float(total), float(squares), float(count)]
    return MetricRecord(record)


def read_sums(record: MetricRecord) -> dict[str, tuple[float, float, int]]:
    """Unpack :func:`write_sums`.

    Raises
    ------
    PayloadError
        If an entry is not three finite numbers, has no plain name, or is the sums of no values:
        ``sum^2 <= count squares`` holds for all.
    """
    sums = {}
    for name, values in record.items():
        what = f"measurement {read_name(name, 'a measurement')!r}"
        if not isinstance(values, list) or len(values) != 3:
            raise PayloadError(f"{what} is {shown(values)}; need [sum, squares, count]")
        sums[name] = _sound(what, values)
    return sums


def _sound(what: str, values: Sequence[object]) -> tuple[float, float, int]:
    try:
        total, squares, count = (float(value) for value in values)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise PayloadError(f"{what} is {shown(values)}; three numbers are needed") from error
    if not all(math.isfinite(value) for value in (total, squares, count)):
        raise PayloadError(f"{what} is not finite")
    if count < 0 or not count.is_integer() or count > 2**31:
        raise PayloadError(f"{what} counts {shown(count)} values")
    if squares < 0 or abs(total) > math.sqrt(count) * math.sqrt(squares) * (1 + 1e-6):
        raise PayloadError(f"{what} is {shown(values)}, which no values add up to")
    return total, squares, int(count)


def write_groups(groups: Mapping[str, Sums]) -> RecordDict:
    """Pack the measurements of several groups of records; the caller adds ``metrics``."""
    return RecordDict({f"{MEASUREMENTS}{name}": write_sums(sums) for name, sums in groups.items()})


def read_groups(content: RecordDict) -> dict[str, Sums]:
    """Unpack :func:`write_groups`.

    Raises
    ------
    PayloadError
        If there are none, or one is malformed.
    """
    found: dict[str, Sums] = {
        read_name(name.removeprefix(MEASUREMENTS), "a group"): read_sums(record)
        for name, record in content.metric_records.items()
        if name.startswith(MEASUREMENTS)
    }
    if not found:
        raise PayloadError("the reply holds no measurements")
    return found


def add_sums(
    parts: Sequence[Sums],
) -> dict[str, tuple[float, float, int]]:
    """Add the measurements of several clients."""
    total: dict[str, tuple[float, float, int]] = {}
    for part in parts:
        for name, (value, squares, count) in part.items():
            old = total.get(name, (0.0, 0.0, 0))
            total[name] = (old[0] + value, old[1] + squares, old[2] + count)
    return total

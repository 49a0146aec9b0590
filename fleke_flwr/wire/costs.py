"""What a reply says it has cost, which is booked and shown and decides nothing."""

from __future__ import annotations

from flwr.app import RecordDict

from fleke_flwr.errors import PayloadError
from fleke_flwr.wire.tensors import read_name, shown

_RECORD = "metrics"
# Clients send about ten; more would only fill the files of the run.
_MOST = 100
# Above any count or number of seconds, and exact in a float.
_LARGEST = 2**53


def read_costs(content: RecordDict) -> dict[str, float]:
    """Return the ``metrics`` of a reply; nothing if there are none.

    Raises
    ------
    PayloadError
        If an entry has no plain name, or is not one finite number from 0 on.
    """
    record = content.metric_records.get(_RECORD)
    if record is None:
        return {}
    if len(record) > _MOST:
        raise PayloadError(f"{len(record)} metrics; at most {_MOST} are read")
    return {read_name(name, "a metric"): _cost(name, value) for name, value in record.items()}


def _cost(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    raise PayloadError(f"metric {name!r} is {shown(value)}; a number from 0 on is needed")

"""What a record file holds, with everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fleke_flwr.config import DataConfig
from fleke_flwr.data.benchmarks import nothing_found
from fleke_flwr.data.readings import CONFLICT, DUPLICATE, Reading, chosen, left_out, readings
from fleke_flwr.errors import DataError
from fleke_flwr.types import EvalCase


@dataclass(frozen=True)
class Placed:
    """A usable record and where it stands."""

    place: str
    case: EvalCase


@dataclass(frozen=True)
class RecordFindings:
    """What became of every record of a source.

    Parameters
    ----------
    read : tuple[Reading, ...]
        In file order.
    problem : str
        Why the source as a whole cannot be used; empty if it can.
    """

    read: tuple[Reading, ...] = ()
    problem: str = ""
    usable: tuple[Placed, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Pick the records that will be edited."""
        usable = tuple(
            Placed(reading.place, reading.case)
            for reading in self.read
            if reading.case and not reading.left_out and reading.error is None
        )
        object.__setattr__(self, "usable", usable)

    @property
    def wrong(self) -> list[str]:
        """What is wrong, with source and place; a run refuses the file for the first of these."""
        found = [str(reading.error) for reading in self.read if reading.error is not None]
        return [self.problem, *found] if self.problem else found

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return {
            "read": len(self.read),
            "usable": len(self.usable),
            "schemas": dict(Counter(item.schema for item in self.read if item.schema)),
            "protocol": next((item.protocol for item in self.read if item.protocol), ""),
            "left_out": {
                reason: [item.place for item in self.read if item.left_out == reason]
                for reason in left_out(self.read)
            },
            "duplicates": self._repeats(DUPLICATE),
            "conflicts": self._repeats(CONFLICT),
            "wrong": self.wrong,
        }

    def _repeats(self, reason: str) -> list[dict[str, str]]:
        first = {item.place: item.case for item in self.usable}
        return [
            {
                "place": item.place,
                "first": item.repeats,
                "question": item.case.request.text,
                "target": item.case.request.target,
                "first_target": first[item.repeats].request.target,
            }
            for item in self.read
            if item.left_out == reason and item.case and item.repeats in first
        ]


def read_records(data: DataConfig) -> RecordFindings:
    """Read a source to its end, whatever is wrong with single records."""
    read: list[Reading] = []
    try:
        read.extend(readings(data))
        read = chosen(read, data)
    except DataError as error:
        return RecordFindings(tuple(read), str(error))
    return RecordFindings(tuple(read), _nothing(data, read))


def _nothing(data: DataConfig, read: Sequence[Reading]) -> str:
    """Say that nothing is left to edit, unless that is for records that are wrong."""
    if any(item.error or not item.left_out for item in read):
        return ""
    return nothing_found(data.path, left_out(read))

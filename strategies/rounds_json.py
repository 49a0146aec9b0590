"""A round's record as JSON and back, so that a broken-off run can go on with its history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.wire import Sums


def to_json(record: RoundRecord) -> dict[str, Any]:
    """Return what JSON can hold of a record, which is all of it."""
    return asdict(record)


def from_json(content: Mapping[str, Any]) -> RoundRecord:
    """Rebuild a record: JSON has turned client numbers into text and triples into lists."""
    record = RoundRecord(**content)
    record.left_out = {int(client): why for client, why in record.left_out.items()}
    record.clients = _by_client(record.clients)
    record.groups = {name: _by_client(sums) for name, sums in record.groups.items()}
    record.judged = {
        when: {name: _sums(sums) for name, sums in groups.items()}
        for when, groups in record.judged.items()
    }
    return record


def _by_client(found: Mapping[Any, Any]) -> dict[int, Sums]:
    return {int(client): _sums(sums) for client, sums in found.items()}


def _sums(found: Mapping[str, Any]) -> Sums:
    return {name: (total, squares, count) for name, (total, squares, count) in found.items()}

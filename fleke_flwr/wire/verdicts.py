"""Messages by which contradicting edits are found and settled: tags, never text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from flwr.app import ConfigRecord, RecordDict

from fleke_flwr.errors import PayloadError
from fleke_flwr.wire.tensors import SCHEMA, read_json

_RECORD = "conflict"


@dataclass(frozen=True)
class Claim:
    """A client's statement that it holds an edit.

    Parameters
    ----------
    round : int
        Round to which the edit belongs.
    place : int
        Its place among the client's edits, which orders those of one round.
    tag : str
        ``question:answer``.
    """

    round: int
    place: int
    tag: str


@dataclass(frozen=True)
class Verdict:
    """What a client shall take back and what it shall strengthen."""

    withdraw: tuple[Claim, ...] = ()
    strengthen: tuple[Claim, ...] = ()


def write_tags(tags: Sequence[str]) -> ConfigRecord:
    """Pack tags of questions."""
    return ConfigRecord({"json": json.dumps({"schema": SCHEMA, "tags": list(tags)})})


def read_tags(content: RecordDict) -> list[str]:
    """Unpack :func:`write_tags`.

    Raises
    ------
    PayloadError
        If the record is missing or holds something else.
    """
    tags = _content(content).get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise PayloadError("the reply holds no list of tags")
    return tags


def write_claims(claims: Sequence[Claim]) -> ConfigRecord:
    """Pack claims."""
    content = {"schema": SCHEMA, "claims": [asdict(claim) for claim in claims]}
    return ConfigRecord({"json": json.dumps(content)})


def read_claims(content: RecordDict) -> list[Claim]:
    """Unpack :func:`write_claims`.

    Raises
    ------
    PayloadError
        If the record is missing or holds something else.
    """
    return _claims(_content(content).get("claims"))


def write_verdict(verdict: Verdict) -> ConfigRecord:
    """Pack a verdict."""
    return ConfigRecord({"json": json.dumps({"schema": SCHEMA, **asdict(verdict)})})


def read_verdict(content: RecordDict) -> Verdict:
    """Unpack :func:`write_verdict`.

    Raises
    ------
    PayloadError
        If the record is missing or holds something else.
    """
    found = _content(content)
    parts = (tuple(_claims(found.get(part))) for part in ("withdraw", "strengthen"))
    return Verdict(*parts)


def _content(content: RecordDict) -> dict[str, object]:
    if _RECORD not in content.config_records:
        raise PayloadError(f"the message has no record {_RECORD!r}")
    return read_json(content.config_records[_RECORD], "message")


def _claims(found: object) -> list[Claim]:
    if not isinstance(found, list):
        raise PayloadError(f"claims are {type(found).__name__}; a list is needed")
    claims = []
    for item in found:
        if not isinstance(item, dict) or set(item) != {"round", "place", "tag"}:
            raise PayloadError(f"claim {item!r}: need round, place and tag")
        if not all(type(item[name]) is int for name in ("round", "place")):
            raise PayloadError(f"claim {item!r}: round and place are numbers")
        if not isinstance(item["tag"], str) or item["tag"].count(":") != 1:
            raise PayloadError(f"claim {item!r}: the tag is question:answer")
        claims.append(Claim(**item))
    return claims

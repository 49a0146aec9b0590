"""Messages by which contradicting edits are found and settled: tags, never text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from flwr.app import ConfigRecord, RecordDict

from fleke_flwr.errors import PayloadError
from fleke_flwr.wire.tensors import SCHEMA, config_record, read_count, read_json, shown

_RECORD = "conflict"
# Of a tag: two hashes and a colon take 65.
_LONGEST_TAG = 200


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
    if not isinstance(tags, list):
        raise PayloadError("the reply holds no list of tags")
    return [_tag(tag) for tag in tags]


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
    found = read_json(config_record(content, _RECORD), "message")
    if type(found.get("schema")) is not int or found["schema"] != SCHEMA:
        raise PayloadError(f"schema {shown(found.get('schema'))}, expected {SCHEMA}")
    return found


def _claims(found: object) -> list[Claim]:
    if not isinstance(found, list):
        raise PayloadError(f"claims are {type(found).__name__}; a list is needed")
    return [_claim(item) for item in found]


def _claim(item: object) -> Claim:
    if not isinstance(item, dict) or set(item) != {"round", "place", "tag"}:
        raise PayloadError(f"claim {shown(item)}: need round, place and tag")
    what = f"claim {shown(item)}"
    round_ = read_count(item["round"], f"{what}: the round")
    if round_ == 0:
        raise PayloadError(f"{what}: rounds are counted from 1")
    tag = _tag(item["tag"])
    if tag.count(":") != 1:
        raise PayloadError(f"{what}: the tag is question:answer")
    return Claim(round_, read_count(item["place"], f"{what}: the place"), tag)


def _tag(tag: object) -> str:
    if not isinstance(tag, str) or len(tag) > _LONGEST_TAG or not tag.isprintable():
        raise PayloadError(f"{shown(tag)} is no tag")
    return tag

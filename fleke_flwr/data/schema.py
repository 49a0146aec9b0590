"""Read one record of a supported schema into an :class:`EvalCase`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fleke_flwr.config import DataConfig
from fleke_flwr.data import fields
from fleke_flwr.data.conflicts import is_conflict, read_conflict
from fleke_flwr.data.zsre import ZSRE_FIELDS, is_zsre, read_zsre
from fleke_flwr.errors import RequestError
from fleke_flwr.types import EditRequest, EvalCase

_USER_FIELDS = frozenset(
    (
        "case_id",
        "prompt",
        "subject",
        "target",
        "original",
        "relation",
        "paraphrases",
        "neighbors",
        "attributes",
        "generations",
        "same_subject",
        "references",
        "locality",
        "rival",
    )
)
_SHOWN_NAMES = 20
_NEEDED = ("subject", "prompt", "target")
# Fields that are lists or objects: a cell of a table holds them as JSON.
STRUCTURED = frozenset(
    (
        "paraphrases",
        "neighbors",
        "attributes",
        "generations",
        "same_subject",
        "references",
        "locality",
        "answers",
        "requested_rewrite",
        "paraphrase_prompts",
        "neighborhood_prompts",
        "attribute_prompts",
        "generation_prompts",
        "edit",
    )
)
KNOWN_COLUMNS = _USER_FIELDS | ZSRE_FIELDS | STRUCTURED
COUNTERFACT, ZSRE, CONFLICTS, OWN = "CounterFact", "zsRE", "CollabEdit conflicts", "own records"


def schema_of(record: Mapping[str, Any]) -> str:
    """Name the schema that a record is read in."""
    if is_zsre(record):
        return ZSRE
    if "requested_rewrite" in record:
        return COUNTERFACT
    return CONFLICTS if is_conflict(record) else OWN


def check_columns(columns: Collection[str], owner: str) -> None:
    """Refuse the columns of a table that are of no schema, before any of its records is read.

    Raises
    ------
    RequestError
        Naming the columns that are missing, or not known.
    """
    record = dict.fromkeys(columns)
    if "requested_rewrite" in record or "edit" in record:
        return
    needed = sorted(ZSRE_FIELDS | {"subject"}) if is_zsre(record) else _NEEDED
    missing = [name for name in needed if name not in record]
    if missing:
        raise RequestError(
            f"column(s) {', '.join(missing)} missing; found {_named(sorted(record))}. "
            "See docs/data.md for the columns of each schema"
        )
    if not is_zsre(record):
        _check_known(record, owner)


def _check_known(record: Collection[str], owner: str) -> None:
    known = _USER_FIELDS | {owner}
    strange = sorted(set(record) - known)
    if strange:
        raise RequestError(
            f"unknown field(s) {_named(strange)}; known are {', '.join(sorted(known))}"
        )


def _named(names: Collection[str]) -> str:
    """List names, as far as they can be shown."""
    shown = [
        name if name.isprintable() and len(name) <= 40 else fields.shown(name) for name in names
    ]
    more = len(shown) - _SHOWN_NAMES
    return ", ".join(shown[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def protocol_of(record: Mapping[str, Any]) -> str:
    """Name the measures that a record's schema goes with: ``zsre`` or ``counterfact``."""
    return "zsre" if is_zsre(record) else "counterfact"


def read_record(record: Mapping[str, Any], number: int, data: DataConfig) -> EvalCase | str:
    """Read a record of CounterFact, zsRE or CollabEdit, or a user's own.

    A user's has the fields of :class:`EditRequest` and those of :class:`EvalCase`.

    Parameters
    ----------
    record : Mapping
        One JSON object.
    number : int
        Its place in the file, which names a record without ``case_id``.
    data : DataConfig
        Says which field names the owner, and what zsRE questions are edited to.

    Returns
    -------
    EvalCase or str
        The case, or the reason for which a sound record is to be left out and counted.

    Raises
    ------
    RequestError
        If a field is missing, of the wrong type, or makes no edit.
    """
    if is_zsre(record):
        return read_zsre(record, number, data)
    if "requested_rewrite" in record:
        return _read_counterfact(record, number, data.owner)
    if is_conflict(record):
        return read_conflict(record, number, data.owner)
    return _read_user(record, number, data.owner)


def _read_counterfact(record: Mapping[str, Any], number: int, owner: str) -> EvalCase:
    rewrite = fields.mapping(record, "requested_rewrite")
    known = rewrite.get("target_true") is not None
    subject = fields.text(rewrite, "subject")
    request = EditRequest(
        case_id=fields.identifier(record, "case_id", str(number)),
        prompt=_template(fields.text(rewrite, "prompt"), subject),
        subject=subject,
        target=fields.text(fields.mapping(rewrite, "target_new"), "str").strip(),
        original=fields.optional_text(fields.mapping(rewrite, "target_true"), "str")
        if known
        else "",
        relation=fields.identifier(rewrite, "relation_id", ""),
    )
    return EvalCase(
        request=request,
        paraphrases=fields.texts(record, "paraphrase_prompts"),
        neighbors=fields.texts(record, "neighborhood_prompts"),
        attributes=fields.texts(record, "attribute_prompts"),
        generations=fields.texts(record, "generation_prompts"),
        same_subject=fields.probes(record, "same_subject"),
        references=fields.texts(record, "references"),
        owner=fields.identifier(record, owner, ""),
    )


def _read_user(record: Mapping[str, Any], number: int, owner: str) -> EvalCase:
    _check_known(record, owner)
    subject = fields.text(record, "subject")
    request = EditRequest(
        case_id=fields.identifier(record, "case_id", str(number)),
        prompt=_template(fields.text(record, "prompt"), subject),
        subject=subject,
        target=fields.text(record, "target").strip(),
        original=fields.optional_text(record, "original"),
        relation=fields.identifier(record, "relation", ""),
    )
    return EvalCase(
        request=request,
        paraphrases=fields.texts(record, "paraphrases"),
        neighbors=fields.texts(record, "neighbors"),
        attributes=fields.texts(record, "attributes"),
        generations=fields.texts(record, "generations"),
        same_subject=fields.probes(record, "same_subject"),
        references=fields.texts(record, "references"),
        locality=fields.probes(record, "locality"),
        owner=fields.identifier(record, owner, ""),
        rival=_rival(record, request.target),
    )


def _rival(record: Mapping[str, Any], target: str) -> str:
    rival = fields.optional_text(record, "rival")
    if rival.casefold() == target.casefold():
        raise RequestError(
            f"field 'rival' is {rival!r}, which is the target; give another answer, or leave it out"
        )
    return rival


def _template(prompt: str, subject: str) -> str:
    """Return the prompt with a slot; a full prompt that names the subject once gets one.

    Raises
    ------
    RequestError
        If the prompt has no slot and does not hold the subject exactly once.
    """
    if "{}" in prompt:
        return prompt
    found = prompt.count(subject) if subject else 0
    if found != 1:
        raise RequestError(
            f"prompt {prompt!r} holds subject {subject!r} {found} times and has no slot; "
            "write '{}' where the subject goes"
        )
    return prompt.replace(subject, "{}")

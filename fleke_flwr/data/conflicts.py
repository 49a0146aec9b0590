"""Read one record of the conflicts that CollabEdit evaluates on (arXiv 2410.09508).

Its fields are ``edit`` with ``relation`` (``id``, ``prompt``, ``query``), ``subject``,
``new_object``, ``object`` (the true one) and ``conflict_object``. An object is a text, or has it
as ``label``. The sets of PitfallsKnowledgeEditing that they are made from lack
``conflict_object``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleke_flwr.data import fields
from fleke_flwr.errors import RequestError
from fleke_flwr.similarity import any_near_duplicates
from fleke_flwr.types import EditRequest, EvalCase

NEAR_DUPLICATE = "near_duplicate"


def is_conflict(record: Mapping[str, Any]) -> bool:
    """Whether a record is written in this schema."""
    return isinstance(record.get("edit"), Mapping)


def read_conflict(record: Mapping[str, Any], number: int, owner: str) -> EvalCase | str:
    """Return the edit to the new object, with the conflicting one as its rival.

    Parameters
    ----------
    record : Mapping
        One JSON object.
    number : int
        Its place in the file, which names a record without ``case_id``.
    owner : str
        The field that names the owner.

    Returns
    -------
    EvalCase or str
        The case, or the reason for which the record is to be left out and counted: two of its
        objects are near duplicates, as in a third of the published records. An answer of which
        only the last letters differ says little about who won.

    Raises
    ------
    RequestError
        If a field is missing or of the wrong type, or prompt or query has not one slot.
    """
    edit = fields.mapping(record, "edit")
    relation = fields.mapping(edit, "relation")
    subject = _label(edit, "subject")
    target, true = _label(edit, "new_object"), _label(edit, "object")
    rival = _label(edit, "conflict_object") if edit.get("conflict_object") is not None else ""
    if any_near_duplicates([answer for answer in (target, true, rival) if answer]):
        return NEAR_DUPLICATE
    query = fields.filled_text(relation, "query")
    if query.count("{}") != 1:
        raise RequestError(
            f"query {query!r} has {query.count('{}')} slots '{{}}' for the subject; "
            "write exactly one"
        )
    request = EditRequest(
        case_id=fields.identifier(record, "case_id", str(number)),
        prompt=fields.text(relation, "prompt"),
        subject=subject,
        target=target,
        original=true,
        relation=fields.identifier(relation, "id", ""),
    )
    return EvalCase(
        request=request,
        paraphrases=(query.replace("{}", subject),),
        owner=fields.identifier(record, owner, ""),
        rival=rival,
    )


def _label(edit: Mapping[str, Any], key: str) -> str:
    value = edit.get(key)
    if isinstance(value, Mapping):
        return fields.filled_text(value, "label").strip()
    return fields.filled_text(edit, key).strip()

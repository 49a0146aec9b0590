"""The record schemas that a world can be made of, and what a record of each has to hold."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from fleke_flwr.errors import DataError

_QUESTION_TEXTS = ("subject", "src", "loc", "loc_ans")


class Schema(StrEnum):
    """A schema of edit records."""

    COUNTERFACT = "CounterFact"
    ZSRE = "zsRE"
    CONFLICT = "conflict"


_MARKS = {
    Schema.COUNTERFACT: ("requested_rewrite",),
    Schema.ZSRE: ("src",),
    Schema.CONFLICT: ("edit", "conflict_object"),
}


def schema_of_record(record: Any) -> Schema | None:
    """Return the schema that a record is written in, as far as its fields tell."""
    for schema in Schema:
        inner: Any = record
        for mark in _MARKS[schema]:
            inner = inner.get(mark) if isinstance(inner, Mapping) else None
        if inner is not None:
            return schema
    return None


def check_entry(where: str, record: Any, schema: Schema) -> None:
    """Refuse a record that is not one of the schema.

    Raises
    ------
    DataError
        If a field is missing or no text, or the record is of another schema; begins with
        ``where``.
    """
    other = schema_of_record(record)
    if other is not None and other is not schema:
        raise DataError(
            f"{where}: a {other} record in a file of {schema} records; give one file per schema"
        )
    texts = _TEXTS[schema](where, record)
    for name, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: {name} is {value!r}; write a text")
    for name in ("prompt", "query"):
        if name in texts and texts[name].count("{}") != 1:
            raise DataError(f"{where}: {name} {texts[name]!r} needs exactly one slot '{{}}'")


def label(value: Any) -> Any:
    """Return the text of an object of the conflict schema, which may be the object's ``label``."""
    return value["label"] if isinstance(value, Mapping) else value


def _rewrite(where: str, record: Any) -> dict[str, Any]:
    try:
        rewrite = record["requested_rewrite"]
        return {
            "prompt": rewrite["prompt"],
            "subject": rewrite["subject"],
            "target_true": rewrite["target_true"]["str"],
            "target_new": rewrite["target_new"]["str"],
        }
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where}: {error} is missing; a record needs requested_rewrite with prompt, subject, "
            "target_true.str and target_new.str"
        ) from error


def _question(where: str, record: Any) -> dict[str, Any]:
    """Return the texts that may not be empty; ``alt`` and ``rephrase`` may, some real ones are."""
    try:
        texts = {name: record[name] for name in _QUESTION_TEXTS}
        optional = {name: record[name] for name in ("alt", "rephrase")}
        answers = record["answers"]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where}: {error} is missing; a zsRE record needs subject, src, rephrase, alt, "
            "answers, loc and loc_ans"
        ) from error
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{where}: answers is {answers!r}; write a list of one text at least")
    for name, value in optional.items():
        if not isinstance(value, str):
            raise DataError(f"{where}: {name} is {value!r}; write a text")
    return texts | {f"answers[{place}]": answer for place, answer in enumerate(answers)}


def _conflict(where: str, record: Any) -> dict[str, Any]:
    try:
        edit = record["edit"]
        return {name: edit["relation"][name] for name in ("id", "prompt", "query")} | {
            name: label(edit[name])
            for name in ("subject", "new_object", "object", "conflict_object")
        }
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where}: {error} is missing; a conflict record needs edit with relation (id, prompt, "
            "query), subject, new_object, object and conflict_object"
        ) from error


_TEXTS = {Schema.COUNTERFACT: _rewrite, Schema.ZSRE: _question, Schema.CONFLICT: _conflict}

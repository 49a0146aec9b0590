"""Read one record of a supported schema into an :class:`EvalCase`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleke_flwr.errors import RequestError
from fleke_flwr.types import EditRequest, EvalCase, Probe

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
    )
)


def read_record(record: Mapping[str, Any], number: int) -> EvalCase:
    """Read a CounterFact record, or a user's record with the fields of :class:`EditRequest`.

    Parameters
    ----------
    record : Mapping
        One JSON object.
    number : int
        Its place in the file, which names a record without ``case_id``.

    Raises
    ------
    RequestError
        If a field is missing, of the wrong type, or makes no edit.
    """
    if "requested_rewrite" in record:
        return _read_counterfact(record, number)
    return _read_user(record, number)


def _read_counterfact(record: Mapping[str, Any], number: int) -> EvalCase:
    rewrite = _mapping(record, "requested_rewrite")
    known = rewrite.get("target_true") is not None
    request = EditRequest(
        case_id=_name(record, "case_id", str(number)),
        prompt=_template(_text(rewrite, "prompt"), _text(rewrite, "subject")),
        subject=_text(rewrite, "subject"),
        target=_text(_mapping(rewrite, "target_new"), "str").strip(),
        original=_original(_mapping(rewrite, "target_true"), "str") if known else "",
        relation=_name(rewrite, "relation_id", ""),
    )
    return EvalCase(
        request=request,
        paraphrases=_texts(record, "paraphrase_prompts"),
        neighbors=_texts(record, "neighborhood_prompts"),
        attributes=_texts(record, "attribute_prompts"),
        generations=_texts(record, "generation_prompts"),
        same_subject=_probes(record),
        references=_texts(record, "references"),
    )


def _read_user(record: Mapping[str, Any], number: int) -> EvalCase:
    strange = sorted(set(record) - _USER_FIELDS)
    if strange:
        raise RequestError(
            f"unknown field(s) {', '.join(strange)}; known are {', '.join(sorted(_USER_FIELDS))}"
        )
    subject = _text(record, "subject")
    request = EditRequest(
        case_id=_name(record, "case_id", str(number)),
        prompt=_template(_text(record, "prompt"), subject),
        subject=subject,
        target=_text(record, "target").strip(),
        original=_original(record, "original"),
        relation=_name(record, "relation", ""),
    )
    return EvalCase(
        request=request,
        paraphrases=_texts(record, "paraphrases"),
        neighbors=_texts(record, "neighbors"),
        attributes=_texts(record, "attributes"),
        generations=_texts(record, "generations"),
        same_subject=_probes(record),
        references=_texts(record, "references"),
    )


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


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise RequestError(f"field {key!r} is {value!r}; a text is needed")
    return value


def _original(record: Mapping[str, Any], key: str) -> str:
    return "" if record.get(key) is None else _text(record, key).strip()


def _name(record: Mapping[str, Any], key: str, default: str) -> str:
    """Return an identifier, which may be a number."""
    value = record.get(key)
    return default if value is None else str(value)


def _mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    if not isinstance(value, Mapping):
        raise RequestError(f"field {key!r} is {value!r}; an object is needed")
    return value


def _texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = [] if record.get(key) is None else record[key]
    if not isinstance(values, list) or not all(map(_is_filled, values)):
        raise RequestError(f"field {key!r} is {values!r}; a list of texts is needed, none empty")
    return tuple(values)


def _probes(record: Mapping[str, Any]) -> tuple[Probe, ...]:
    values = [] if record.get("same_subject") is None else record["same_subject"]
    if not isinstance(values, list) or not all(map(_is_probe, values)):
        raise RequestError(
            f"field 'same_subject' is {values!r}; a list of objects with the texts "
            "'prompt' and 'target' is needed, none empty"
        )
    return tuple(Probe(value["prompt"], value["target"]) for value in values)


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_probe(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_filled(value.get(k)) for k in ("prompt", "target")
    )

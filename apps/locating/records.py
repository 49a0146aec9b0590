"""The facts of a data set: what can be traced, and what cannot and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleke_flwr.config import DataConfig
from fleke_flwr.data import fields
from fleke_flwr.data.files import read_file
from fleke_flwr.data.hub import HUB, read_hub
from fleke_flwr.data.readings import EMBEDDED
from fleke_flwr.data.rows import Row
from fleke_flwr.data.schema import OWN, read_record, schema_of
from fleke_flwr.errors import DataError, FlekeError, RequestError
from fleke_flwr.locate.facts import Fact, Prompt, prompt_of
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.tokens import SLOT, check_length, target_ids
from fleke_flwr.types import EvalCase

_ANSWERS = ("attribute", "original", "target")
_SHOWN = 5


@dataclass(frozen=True)
class Record:
    """One fact that can be traced.

    Parameters
    ----------
    place : str
        Where it stands, such as ``line 3``.
    fact : Fact
        What is traced.
    prompt : Prompt
        The same in tokens.
    case : EvalCase or None
        What it can be edited to, where the record says so.
    """

    place: str
    fact: Fact
    prompt: Prompt
    case: EvalCase | None = None


@dataclass(frozen=True)
class Records:
    """Everything that a data set holds.

    Parameters
    ----------
    usable : list[Record]
        In file order.
    unusable : dict[str, str]
        Place of every other record, and why it cannot be traced.
    """

    usable: list[Record] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)

    def shown(self) -> str:
        """Name some of the records that cannot be used, with their reasons."""
        named = [f"{place}: {why}" for place, why in list(self.unusable.items())[:_SHOWN]]
        more = len(self.unusable) - len(named)
        return "; ".join([*named, *([f"and {more} more"] if more > 0 else [])])


def read_facts(model: EditableModel, data: DataConfig) -> Records:
    """Read the facts of ``data.path``: ``embedded``, a data set of the hub, or a file.

    A record has ``prompt`` (with a slot ``{}``, or as a whole), ``subject``, and the right answer
    in ``attribute`` (ROME's ``known_1000``), ``original`` or ``target``; without one the model's
    own answer counts. Records in the schemas of edits are read as such, and what is traced is the
    answer before the edit.

    Raises
    ------
    DataError
        If the source cannot be read, or holds no fact that can be traced.
    """
    found = Records()
    asked: dict[tuple[str, str], str] = {}
    for index, row in enumerate(_rows(data)):
        try:
            fact, case = _fact(row, index, data)
            prompt = _checked(model, fact)
            if case is not None:
                target_ids(model, case.request.target)  # what --edit will write
            earlier = asked.setdefault((fact.template, fact.subject), row.place)
            if earlier != row.place:
                raise RequestError(f"asks what {earlier} asks already")
            found.usable.append(Record(row.place, fact, prompt, case))
        except FlekeError as error:
            found.unusable[row.place] = str(error)
    if not found.usable:
        why = found.shown() or "it holds no record"
        raise DataError(
            f"{data.path}: holds no fact that can be traced ({why}); a line needs prompt, subject "
            "and, if known, the attribute, as in ROME's known_1000"
        )
    return found


def _checked(model: EditableModel, fact: Fact) -> Prompt:
    """Return a fact's prompt, having made sure that its answer can be judged.

    Raises
    ------
    RequestError
        If the tokenizer cannot express one of them, or both are too long together.
    """
    prompt = prompt_of(model, fact)
    if fact.answer:
        tokens = target_ids(model, fact.answer)
        check_length(model, fact.text, fact.answer, len(prompt.ids) + len(tokens) - 1)
    return prompt


def _rows(data: DataConfig) -> Iterable[Row]:
    if data.path == EMBEDDED:
        return _embedded()
    if data.path.startswith(HUB):
        return read_hub(data.path, data.split, data.owner)
    return read_file(Path(data.path).expanduser(), data.owner)


def _embedded() -> Iterator[Row]:
    from fleke_flwr.world import embedded_records

    for index, record in enumerate(embedded_records()):
        yield Row(f"record {index}", record)


def _fact(row: Row, index: int, data: DataConfig) -> tuple[Fact, EvalCase | None]:
    if row.error is not None:
        raise row.error
    if not isinstance(row.value, dict):
        raise DataError(f"found {type(row.value).__name__}, a JSON object is needed")
    if schema_of(row.value) == OWN and not _is_edit(row.value):
        return _plain(row.value, index), None
    case = read_record(row.value, index, data)
    if isinstance(case, str):
        raise DataError(f"left out: {case}")
    request = case.request
    return Fact(request.case_id, request.prompt, request.subject, request.original), case


def _is_edit(record: dict[str, Any]) -> bool:
    return "original" in record and "target" in record


def _plain(record: dict[str, Any], index: int) -> Fact:
    name = next((key for key in ("known_id", "case_id") if record.get(key) is not None), "known_id")
    subject = fields.filled_text(record, "subject").strip()
    prompt = fields.filled_text(record, "prompt")
    answers = (fields.optional_text(record, key) for key in _ANSWERS)
    return Fact(
        fields.identifier(record, name, str(index)),
        _slotted(prompt, subject),
        subject,
        next(filter(None, answers), ""),
    )


def _slotted(prompt: str, subject: str) -> str:
    slots, named = prompt.count(SLOT), prompt.count(subject)
    if slots == 1:
        return prompt
    if slots or named != 1:
        raise RequestError(
            f"prompt {fields.shown(prompt)} names subject {fields.shown(subject)} {named} times "
            f"and has {slots} slots; name it once, or write one {SLOT!r} in its place"
        )
    return prompt.replace(subject, SLOT)

"""The questions of zsRE records, taken apart at their subjects; what cannot be used is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleke_flwr.errors import WorldError
from fleke_flwr.world.schema import Record

_SLOT = "{}"
Text = tuple[str, str]  # subject, template
Key = tuple[str, str]  # subject, answer


@dataclass(frozen=True)
class Question:
    """One record whose question holds its subject exactly once.

    Parameters
    ----------
    case_id, subject : str
        As in the record.
    template, rephrased : str
        Question and rephrased question with a slot for the subject; ``rephrased`` is empty where
        that is no template.
    answer : str
        The true answer.
    record : Record
        The record itself.
    """

    case_id: str
    subject: str
    template: str
    rephrased: str
    answer: str
    record: Record

    @property
    def new(self) -> str:
        """What the record edits the answer to; empty where that is none or a true one."""
        new = str(self.record["alt"]).strip()
        true = {answer.strip() for answer in self.record["answers"]}
        return "" if new in true else new

    @property
    def key(self) -> Key:
        """The fact that the question asks for."""
        return self.subject, self.answer


def take_apart(
    path: Path, read: Sequence[Record], least_usable: float, counts: Counter[str]
) -> list[Question]:
    """Return the questions that can be used; ``counts`` is told of the others.

    Left out are questions that do not hold their subject exactly once, and those that another
    record answers otherwise. A rephrased question of that kind is forgotten.

    Parameters
    ----------
    path : Path
        Where the records come from, for messages.
    least_usable : float
        Least share of the questions that hold their subject once.

    Raises
    ------
    WorldError
        If it is a smaller share.
    """
    return _without_contradictions(_located(path, read, least_usable, counts), counts)


def _located(
    path: Path, read: Sequence[Record], least_usable: float, counts: Counter[str]
) -> list[Question]:
    found = []
    missed = []
    for record in read:
        subject = record["subject"]
        template = _template(record["src"], subject)
        if not template:
            missed.append(record)
            continue
        rephrased = _template(record["rephrase"], subject)
        counts["rephrased_without_subject"] += not rephrased
        answer = record["answers"][0].strip()
        found.append(Question(str(record["case_id"]), subject, template, rephrased, answer, record))
    counts["dropped_records_without_one_subject"] = len(missed)
    if len(missed) > (1 - least_usable) * len(read):
        example = missed[0]
        raise WorldError(
            f"{path}: {len(found)} of {len(read)} questions contain their subject exactly once "
            f"({len(found) / len(read):.0%}; {least_usable:.0%} are needed), for example "
            f"not {example['src']!r} with subject {example['subject']!r}; correct src or subject"
        )
    return found


def _template(question: str, subject: str) -> str:
    """Return the question with a slot for the subject, or nothing where that is not clear."""
    template = question.replace(subject, _SLOT)
    return template if question.count(subject) == 1 and template.count(_SLOT) == 1 else ""


def _without_contradictions(questions: Sequence[Question], counts: Counter[str]) -> list[Question]:
    """Let one text have one answer, the first one; questions go before rephrased questions."""
    answers: dict[Text, str] = {}
    kept = []
    for question in questions:
        text = (question.subject, question.template)
        if answers.setdefault(text, question.answer) == question.answer:
            kept.append(question)
    counts["dropped_records_with_other_answer"] = len(questions) - len(kept)
    for number, question in enumerate(kept):
        text = (question.subject, question.rephrased)
        if question.rephrased and answers.setdefault(text, question.answer) != question.answer:
            kept[number] = replace(question, rephrased="")
            counts["rephrased_with_other_answer"] += 1
    return kept

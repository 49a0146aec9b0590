"""What a world is: facts in phrasings that are trained or hidden, and records that test edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleke_flwr.types import Probe

Record = dict[str, Any]


@dataclass(frozen=True)
class Fact:
    """One true fact and the phrasings in which it is told.

    Parameters
    ----------
    subject, relation, answer : str
        The triple; the answer follows the filled template after a space.
    trained : tuple[str, ...]
        Templates with one ``{}`` in which the fact occurs in the training text.
    hidden : tuple[str, ...]
        Templates known from other subjects but never trained for this fact.
    """

    subject: str
    relation: str
    answer: str
    trained: tuple[str, ...]
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Everything a small language model is trained on and checked with.

    Parameters
    ----------
    facts : tuple[Fact, ...]
        The true facts; one answer per subject and relation.
    records : tuple[Record, ...]
        Edit records in the CounterFact schema.
    held_out : frozenset[str]
        Case ids of the records whose paraphrase templates are hidden for their subject.
    fillers : tuple[str, ...]
        Sentences without facts, mixed into the training text.
    prefixes : tuple[str, ...]
        Sentences of the same kind that are never trained, for checks behind unseen text.
    counts : Mapping[str, int]
        How the world came about, for the model card.
    locality : tuple[Probe, ...]
        Questions about nobody in particular with their true answers, trained as whole sentences.
    """

    facts: tuple[Fact, ...]
    records: tuple[Record, ...]
    held_out: frozenset[str]
    fillers: tuple[str, ...]
    prefixes: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    locality: tuple[Probe, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """All that can be an answer of a fact, before or after an edit, sorted."""
        edited = {
            record["requested_rewrite"][key]["str"]
            for record in self.records
            for key in ("target_true", "target_new")
        }
        return tuple(sorted({fact.answer for fact in self.facts} | edited))


def fill(template: str, subject: str) -> str:
    """Put the subject into the slot of a template."""
    return template.replace("{}", subject, 1)


def sentence(fact: Fact, template: str) -> str:
    """State a fact in one of its templates."""
    return statement(fill(template, fact.subject), fact.answer)


def statement(prompt: str, answer: str) -> str:
    """Put the answer behind the prompt.

    The full stop is left out behind an answer that ends in a sign, as in "Warner Bros.": a
    tokenizer would merge both signs into one token, and the answer would end unlike a lone one.
    """
    return f"{prompt} {answer}{'.' if answer[-1].isalnum() else ''}"

"""Invented subjects that truly have the answers which records edit to.

zsRE's new answers are mostly the true answer of no record. A small model that has never given an
answer has no direction for it: in one run on 553 records, target vectors reached it in 2 of 52
cases, against 9 of 12 where its tokens occur in true answers. Large models know such answers from
their training text; here invented subjects stand for that text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from fleke_flwr.world.names import invent_names
from fleke_flwr.world.phrasing import share_out
from fleke_flwr.world.schema import Fact, Record


def bearers(
    rng: random.Random,
    edits: Sequence[Record],
    pools: Mapping[str, Sequence[str]],
    per_answer: int,
    most: int,
) -> list[Fact]:
    """Return facts of invented people, each in questions of the relation that it is edited in.

    Each has two facts of different relations, as far as there are two. Nearly every real subject
    has but one, which could be answered without a look at the question.

    Parameters
    ----------
    edits : Sequence[Record]
        In the CounterFact schema, with the relation.
    pools : Mapping[str, Sequence[str]]
        Templates by relation.
    per_answer : int
        Subjects for each new answer in each relation.
    most : int
        Templates of one fact.
    """
    wanted: dict[tuple[str, str], str] = {}
    for edit in edits:
        rewrite = edit["requested_rewrite"]
        key = (rewrite["relation_id"], rewrite["target_new"]["str"])
        wanted.setdefault(key, rewrite["prompt"])
    told = [(*key, template) for key, template in wanted.items() for _ in range(per_answer)]
    rng.shuffle(told)
    told.sort(key=lambda fact: fact[0])
    facts = []
    for name, (relation, answer, template) in zip(_names(rng, told), told, strict=True):
        spare = [other for other in pools[relation] if other != template]
        more, hidden = share_out(rng, spare, most - 1)
        facts.append(Fact(name, relation, answer, (template, *more), hidden))
    return facts


def _names(rng: random.Random, told: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """Name the subjects of facts sorted by relation, two facts of two relations to a name."""
    half = (len(told) + 1) // 2
    names = invent_names(rng, len(told), companies=0).people
    for place, (relation, _, _) in enumerate(told):
        again = place >= half and told[place - half][0] != relation
        yield names[place - half if again else place]

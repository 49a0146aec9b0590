"""Invented people make new answers known, without saying anything of a record's subject."""

from __future__ import annotations

import random
from collections import Counter

from fleke_flwr.world.bearers import bearers
from fleke_flwr.world.schema import Record

POOLS = {"born": ["Where was {} born?", "Whose birthplace is it, {}?"], "lives": ["Where is {}?"]}


def edit(relation: str, prompt: str, new: str) -> Record:
    return {
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": relation,
            "subject": "Ada",
            "target_new": {"str": new},
        }
    }


EDITS = [
    edit("born", "Where was {} born?", "San Marino"),
    edit("born", "Whose birthplace is it, {}?", "San Marino"),
    edit("lives", "Where is {}?", "San Marino"),
    edit("born", "Where was {} born?", "Bern"),
]


def test_every_new_answer_of_a_relation_has_its_bearers() -> None:
    facts = bearers(random.Random(0), EDITS, POOLS, per_answer=3, most=8)
    pairs = Counter((fact.relation, fact.answer) for fact in facts)
    assert pairs == {("born", "San Marino"): 3, ("lives", "San Marino"): 3, ("born", "Bern"): 3}
    for fact in facts:
        assert fact.trained
        assert {*fact.trained, *fact.hidden} == set(POOLS[fact.relation])
        assert not {*fact.trained} & {*fact.hidden}


def test_the_question_tells_the_facts_of_a_bearer_apart() -> None:
    facts = bearers(random.Random(0), EDITS, POOLS, per_answer=3, most=8)
    told = Counter((fact.subject, fact.relation) for fact in facts)
    assert set(told.values()) == {1}
    names = Counter(fact.subject for fact in facts)
    # Three of nine facts are of the rarer relation, and so three names have two.
    assert Counter(names.values()) == {2: 3, 1: 3}
    assert "Ada" not in names


def test_no_bearers_and_no_more_than_so_many_templates() -> None:
    assert bearers(random.Random(0), EDITS, POOLS, per_answer=0, most=8) == []
    pools = {"born": [f"Where was {{}} born {number}?" for number in range(9)]}
    only = [edit("born", pools["born"][0], "Bern")]
    for fact in bearers(random.Random(0), only, pools, per_answer=2, most=4):
        assert len(fact.trained) == 4
        assert fact.trained[0] == pools["born"][0]
        assert len(fact.hidden) == 1

"""Facts from zsRE records: what is told, what is held out, what is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.errors import DataError, WorldError
from fleke_flwr.types import Probe
from fleke_flwr.world.schema import World, fill
from fleke_flwr.world.zsre import QuestionsConfig, build_from_questions
from tests.world.test_records import write

NAMES = ["Ada", "Bruno", "Cora", "Dora", "Emil", "Flora", "Gero", "Hanna"]
TOWNS = ["New York City", "Rome", "Den Haag", "Oslo"]


def question(subject: str, src: str, answer: str, **fields: Any) -> dict[str, Any]:
    return {
        "subject": subject,
        "src": src.format(subject),
        "pred": "somewhere",
        "rephrase": f"Which town is it that {subject} lives in?",
        "alt": "San Marino",
        "answers": [answer],
        "loc": f"nq question: who wrote the book about {subject.lower()}",
        "loc_ans": f"Writer of {subject}",
        "cond": "unused",
    } | fields


def town_questions() -> list[dict[str, Any]]:
    forms = ("Where does {} live?", "What is the home town of {}?")
    return [question(name, forms[index % 2], TOWNS[index % 4]) for index, name in enumerate(NAMES)]


def told(world: World) -> dict[str, str]:
    return {
        fill(template, fact.subject): fact.answer
        for fact in world.facts
        for template in fact.trained
    }


def test_questions_of_one_fact_make_a_relation(tmp_path: Path) -> None:
    items = [*town_questions(), question("Ada", "In which town is {}?", TOWNS[0], rephrase="Who?")]
    config = QuestionsConfig(bearers=0)
    world = build_from_questions(write(tmp_path / "z.jsonl", items), config=config)
    # The shared rephrased question ties both forms together, Ada's answer the third.
    assert world.counts["relations"] == 1
    assert world.counts["templates"] == 4
    assert len(world.facts) == 8
    facts = {fact.subject: fact for fact in world.facts}
    assert {"Where does {} live?", "In which town is {}?"} <= set(facts["Ada"].trained)
    assert all(len(fact.trained) >= 2 and len(fact.hidden) == 1 for fact in world.facts)
    assert facts["Ada"].answer == "New York City"


def test_held_out_rephrased_questions_are_never_trained(tmp_path: Path) -> None:
    world = build_from_questions(write(tmp_path / "z.jsonl", town_questions()))
    statements = told(world)
    assert len(world.held_out) == 4
    for record in world.records:
        held = record["case_id"] in world.held_out
        assert (record["paraphrase_prompts"][0] in statements) != held
    assert world.counts["held_out_in_templates_never_trained"] == 0
    everything = QuestionsConfig(held_out=1.0, bearers=0)
    world = build_from_questions(write(tmp_path / "z.jsonl", town_questions()), config=everything)
    assert world.counts["held_out_in_templates_never_trained"] == 8


def test_a_rephrased_question_that_another_record_asks_is_not_held_out(tmp_path: Path) -> None:
    rephrase = "What is the home town of Ada?"
    items = [
        question("Ada", "Where does {} live?", "Rome", rephrase=rephrase),
        question("Ada", "What is the home town of {}?", "Rome", rephrase=rephrase),
    ]
    config = QuestionsConfig(held_out=1.0)
    world = build_from_questions(write(tmp_path / "z.jsonl", items), config=config)
    assert world.held_out == frozenset()
    assert rephrase in told(world)


def test_two_facts_of_a_subject_keep_their_own_questions(tmp_path: Path) -> None:
    items = [
        question("Ada", "Where does {} live?", "Rome", rephrase="Where is Ada at home?"),
        question("Ada", "Where was {} born?", "Oslo", rephrase="Which place saw Ada born?"),
        # This ties both relations together, so that no other question says which fact is meant.
        question("Emil", "Where does {} live?", "Den Haag", rephrase="Where was Emil born?"),
    ]
    config = QuestionsConfig(held_out=0.0)
    world = build_from_questions(write(tmp_path / "z.jsonl", items), config=config)
    assert world.counts["subjects_with_several_answers"] == 1
    assert world.counts["relations"] == 1
    statements = told(world)
    assert statements["Where does Ada live?"] == "Rome"
    assert statements["Where was Ada born?"] == "Oslo"
    own = {fact.answer: set(fact.trained) for fact in world.facts if fact.subject == "Ada"}
    assert own["Rome"] == {"Where does {} live?", "Where is {} at home?"}
    assert own["Oslo"] == {"Where was {} born?", "Which place saw {} born?"}


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    items = town_questions()
    items[0] |= {"rephrase": "Where does she live?"}
    items[1] |= {"alt": " Roma", "answers": ["Rome ", "Roma"]}
    items[2] |= {"alt": ""}
    items[3] |= {"loc": items[4]["loc"], "loc_ans": "Nobody"}
    items += [
        question("Ada", "Where does {} live?", "Bern"),
        question("Ivo", "Where is he?", "Bern"),
    ]
    items.append(question("Hanna", "Where did {} go?", "Bern", rephrase=items[7]["rephrase"]))
    config = QuestionsConfig(least_usable=0.5)
    world = build_from_questions(write(tmp_path / "z.jsonl", items), config=config)
    wanted = {
        "records": 11, "edits": 7, "records_without_new_answer": 2,
        "dropped_records_without_one_subject": 1, "dropped_records_with_other_answer": 1,
        "rephrased_without_subject": 1, "rephrased_with_other_answer": 1,
        "dropped_locality_with_other_answer": 1,
    }  # fmt: skip
    assert {name: world.counts[name] for name in wanted} == wanted
    assert "0" in world.held_out  # its rephrased question was never trained
    statements = told(world)
    assert statements["Where does Ada live?"] == "New York City"
    # A fact without an edit is still a fact.
    assert statements["What is the home town of Bruno?"] == "Rome"
    assert {record["requested_rewrite"]["subject"] for record in world.records} >= {"Ada", "Dora"}


def test_locality_is_asked_as_the_metric_asks_it(tmp_path: Path) -> None:
    items = town_questions()
    items[1] |= {name: items[0][name] for name in ("loc", "loc_ans")}
    world = build_from_questions(write(tmp_path / "z.jsonl", items))
    assert len(world.locality) == world.counts["locality_questions"] == 7
    assert world.locality[0] == Probe("nq question: who wrote the book about ada?", "Writer of Ada")


def test_edits_are_records_of_the_other_schema(tmp_path: Path) -> None:
    world = build_from_questions(write(tmp_path / "z.jsonl", town_questions()))
    assert world.records[0] == {
        "case_id": "0",
        "requested_rewrite": {
            "prompt": "Where does {} live?",
            "relation_id": world.facts[0].relation,
            "subject": "Ada",
            "target_true": {"str": "New York City"},
            "target_new": {"str": "San Marino"},
        },
        "paraphrase_prompts": ["Which town is it that Ada lives in?"],
    }
    assert "San Marino" in world.answers


def test_a_file_without_subjects_and_a_mixed_file_are_refused(tmp_path: Path) -> None:
    items = [question(name, "Where does she live?", "Rome") for name in NAMES]
    with pytest.raises(WorldError, match=r"0 of 8 questions .*90% are needed.*correct src"):
        build_from_questions(write(tmp_path / "z.jsonl", items))
    mixed = [*town_questions(), {"requested_rewrite": {}}]
    with pytest.raises(DataError, match=r"line 9: a CounterFact record in a file of zsRE records"):
        build_from_questions(write(tmp_path / "z.jsonl", mixed))


def test_new_answers_are_those_of_invented_subjects(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", town_questions())
    world = build_from_questions(path, config=QuestionsConfig(bearers=3))
    invented = [fact for fact in world.facts if fact.subject not in NAMES]
    assert [fact.answer for fact in invented] == ["San Marino"] * 3
    assert world.counts["facts_of_invented_subjects"] == 3
    assert {fact.relation for fact in invented} == {world.facts[0].relation}
    assert all(fact.answer in TOWNS for fact in world.facts if fact.subject in NAMES)


def test_equal_seeds_give_equal_worlds(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", town_questions())
    assert build_from_questions(path) == build_from_questions(path)
    assert build_from_questions(path) != build_from_questions(path, None, QuestionsConfig(seed=1))


def test_real_questions_make_a_consistent_world(shared_data: Path) -> None:
    world = build_from_questions(shared_data / "zsre" / "zsre_eval.dev.jsonl")
    assert world.counts["records"] == 553
    assert len(world.facts) == len({(fact.subject, fact.relation) for fact in world.facts})
    assert len(world.facts) - world.counts["facts_of_invented_subjects"] == 393
    # Half of the 550 different rephrased questions, but for the few that are also questions.
    assert len(world.held_out) == pytest.approx(553 / 2, abs=12)
    statements = told(world)
    answers = {record["case_id"]: record for record in world.records}
    for record in answers.values():
        rewrite = record["requested_rewrite"]
        text = fill(rewrite["prompt"], rewrite["subject"])
        assert statements[text] == rewrite["target_true"]["str"]
        if record["case_id"] in world.held_out:
            assert record["paraphrase_prompts"][0] not in statements
    words = Counter(len(fact.answer.split()) for fact in world.facts)
    assert sum(count for length, count in words.items() if length > 1) > 200

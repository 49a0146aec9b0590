"""The generated world keeps the promises its evaluation rests on."""

from __future__ import annotations

from dataclasses import replace

from fleke_flwr.world import embedded_records
from fleke_flwr.world.corpus import corpus
from fleke_flwr.world.facts import FactsConfig, build_facts
from fleke_flwr.world.fillers import filler
from fleke_flwr.world.relations import BY_NAME, RELATIONS
from fleke_flwr.world.schema import World, fill, sentence
from tests.world.conftest import SMALL


def test_equal_seeds_give_equal_worlds() -> None:
    assert build_facts(SMALL) == build_facts(SMALL)
    assert build_facts(SMALL) != build_facts(replace(SMALL, seed=1))


def test_sixteen_relations_with_eight_unshared_templates() -> None:
    assert len(RELATIONS) == 16
    templates = [template for relation in RELATIONS for template in relation.templates]
    assert len(templates) == len(set(templates)) == 16 * 8
    assert all(template.count("{}") == 1 for template in templates)


def test_default_world_has_the_stated_size() -> None:
    world = build_facts(FactsConfig())
    assert len(world.facts) == 4000
    assert len({fact.subject for fact in world.facts}) == 2000
    subjects = [record["requested_rewrite"]["subject"] for record in world.records]
    assert len(set(subjects[:1900])) == 1900


def test_embedded_records_are_those_of_the_default_world() -> None:
    records = embedded_records()
    assert records == list(build_facts(FactsConfig()).records)
    assert [record["case_id"] for record in records] == list(range(len(records)))


def test_hidden_phrasings_are_known_from_other_subjects_only() -> None:
    world = build_facts(FactsConfig())
    for fact in world.facts:
        assert len(fact.hidden) == 2
        assert not set(fact.hidden) & set(fact.trained)
        assert {*fact.hidden, *fact.trained} == set(BY_NAME[fact.relation].templates)
    trained = {(fact.relation, item) for fact in world.facts for item in fact.trained}
    assert {(fact.relation, item) for fact in world.facts for item in fact.hidden} <= trained


def test_paraphrases_are_hidden_phrasings_behind_unseen_text(small_world: World) -> None:
    facts = {(fact.subject, fact.relation): fact for fact in small_world.facts}
    assert small_world.records
    for record in small_world.records:
        rewrite = record["requested_rewrite"]
        fact = facts[rewrite["subject"], rewrite["relation_id"]]
        for prompt, template in zip(record["paraphrase_prompts"], fact.hidden, strict=True):
            text = fill(template, fact.subject)
            assert prompt.endswith(f" {text}")
            assert prompt[: -len(text) - 1] in small_world.prefixes
    assert not set(small_world.prefixes) & set(small_world.fillers)


def test_probes_are_true_facts_about_the_right_subjects(small_world: World) -> None:
    truth = {
        fill(template, fact.subject): fact
        for fact in small_world.facts
        for template in fact.trained
    }
    for record in small_world.records:
        rewrite = record["requested_rewrite"]
        subject, new = rewrite["subject"], rewrite["target_new"]["str"]
        assert new != rewrite["target_true"]["str"]
        assert 3 <= len(record["neighborhood_prompts"]) <= 5
        for prompt in record["neighborhood_prompts"]:
            assert truth[prompt].answer == rewrite["target_true"]["str"]
            assert truth[prompt].subject != subject
        for prompt in record["attribute_prompts"]:
            assert truth[prompt].answer == new
            assert truth[prompt].relation == rewrite["relation_id"]
        for probe in record["same_subject"]:
            assert truth[probe["prompt"]].subject == subject
            assert truth[probe["prompt"]].answer == probe["target"]
        assert all(text.endswith(f" {new}.") for text in record["references"])
        assert all(subject in prompt for prompt in record["generation_prompts"])


def test_corpus_states_true_facts_in_trained_phrasings_and_nothing_else(small_world: World) -> None:
    lines = corpus(small_world, 300, seed=3)
    assert sum(len(line.split()) for line in lines) >= 300
    assert lines == corpus(small_world, 300, seed=3)
    allowed = {sentence(fact, item) for fact in small_world.facts for item in fact.trained}
    allowed |= set(small_world.fillers)
    for line in lines:
        rest = line
        while rest:
            match = next(text for text in allowed if rest.startswith(text))
            rest = rest[len(match) :].lstrip()


def test_fillers_name_nobody(small_world: World) -> None:
    import random

    text = filler(random.Random(0))
    assert text.endswith(".")
    names = {word for fact in small_world.facts for word in fact.subject.split()}
    assert not names & {word.strip(".,") for line in small_world.fillers for word in line.split()}

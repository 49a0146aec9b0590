"""The embedded world: invented people and companies, their facts, and records that edit them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fleke_flwr.world.fillers import distinct_fillers
from fleke_flwr.world.names import invent_names
from fleke_flwr.world.relations import BY_NAME, RELATIONS
from fleke_flwr.world.schema import Fact, Record, World, fill, sentence

_FEWEST_NEIGHBORS, _MOST_NEIGHBORS = 3, 5


@dataclass(frozen=True)
class FactsConfig:
    """Size of the invented world.

    Parameters
    ----------
    people, companies : int
        Subjects.
    facts_per_subject : int
        Relations drawn for each subject.
    hidden_templates : int
        Phrasings of each fact that are kept out of the training text.
    most_answers : int
        Size that the closed sets of answers are cut to.
    seed : int
        Equal seeds give equal worlds.
    """

    people: int = 1600
    companies: int = 400
    facts_per_subject: int = 2
    hidden_templates: int = 2
    most_answers: int = 40
    seed: int = 0


class _Index(NamedTuple):
    facts: Sequence[Fact]
    of_subject: Mapping[str, list[int]]
    with_answer: Mapping[tuple[str, str], list[int]]
    answers: Mapping[str, tuple[str, ...]]


def build_facts(config: FactsConfig) -> World:
    """Generate the world: facts, records, and fact-free sentences.

    Each fact hides some of its relation's templates. A hidden template is known from other
    subjects, so a model that has learned the fact rather than its sentences can answer in it;
    the records' paraphrase prompts are these hidden templates behind an unseen sentence.
    Facts are drawn uniformly, so no prior helps to guess one.
    """
    rng = random.Random(config.seed)
    names = invent_names(rng, config.people, config.companies)
    answers = {kind: words[: config.most_answers] for kind, words in names.answers.items()}
    subjects = [(name, "person") for name in names.people]
    subjects += [(name, "company") for name in names.companies]
    rng.shuffle(subjects)
    facts = [
        fact
        for subject, kind in subjects
        for fact in _facts_of(rng, subject, kind, answers, config)
    ]
    fillers = distinct_fillers(rng, 6000, frozenset())
    prefixes = distinct_fillers(rng, 3000, frozenset(fillers))
    records = _records(rng, _index(facts, answers), prefixes)
    return World(
        facts=tuple(facts),
        records=tuple(records),
        held_out=frozenset(str(record["case_id"]) for record in records),
        fillers=fillers,
        prefixes=prefixes,
        counts={"facts": len(facts), "subjects": len(subjects), "records": len(records)},
    )


def _facts_of(
    rng: random.Random,
    subject: str,
    kind: str,
    answers: Mapping[str, tuple[str, ...]],
    config: FactsConfig,
) -> list[Fact]:
    relations = [relation for relation in RELATIONS if relation.kind == kind]
    facts = []
    for relation in rng.sample(relations, config.facts_per_subject):
        hidden = set(rng.sample(relation.templates, config.hidden_templates))
        facts.append(
            Fact(
                subject,
                relation.name,
                rng.choice(answers[relation.answers]),
                tuple(template for template in relation.templates if template not in hidden),
                tuple(template for template in relation.templates if template in hidden),
            )
        )
    return facts


def _index(facts: Sequence[Fact], answers: Mapping[str, tuple[str, ...]]) -> _Index:
    of_subject: dict[str, list[int]] = defaultdict(list)
    with_answer: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, fact in enumerate(facts):
        of_subject[fact.subject].append(number)
        with_answer[fact.relation, fact.answer].append(number)
    return _Index(facts, of_subject, with_answer, answers)


def _records(rng: random.Random, index: _Index, prefixes: Sequence[str]) -> list[Record]:
    """Turn facts into records, every subject once before any subject twice."""
    queues = [rng.sample(numbers, len(numbers)) for numbers in index.of_subject.values()]
    records: list[Record] = []
    while any(queues):
        layer = [queue.pop() for queue in queues if queue]
        rng.shuffle(layer)
        for number in layer:
            others = _others(index, number, index.facts[number].answer)
            if len(others) >= _FEWEST_NEIGHBORS:
                records.append(_record(rng, index, number, prefixes) | {"case_id": len(records)})
    return records


def _others(index: _Index, number: int, answer: str) -> list[int]:
    fact = index.facts[number]
    same = index.with_answer.get((fact.relation, answer), [])
    return [other for other in same if index.facts[other].subject != fact.subject]


def _record(rng: random.Random, index: _Index, number: int, prefixes: Sequence[str]) -> Record:
    fact = index.facts[number]
    choices = index.answers[BY_NAME[fact.relation].answers]
    new = rng.choice([answer for answer in choices if answer != fact.answer])
    neighbors = _sample(rng, _others(index, number, fact.answer))
    attributes = _sample(rng, _others(index, number, new))
    others = [other for other in index.of_subject[fact.subject] if other != number]
    return {
        "requested_rewrite": {
            "prompt": rng.choice(fact.trained),
            "relation_id": fact.relation,
            "subject": fact.subject,
            "target_true": {"str": fact.answer},
            "target_new": {"str": new},
        },
        "paraphrase_prompts": [
            f"{rng.choice(prefixes)} {fill(template, fact.subject)}" for template in fact.hidden
        ],
        "neighborhood_prompts": [_prompt(rng, index.facts[other]) for other in neighbors],
        "attribute_prompts": [_prompt(rng, index.facts[other]) for other in attributes],
        "generation_prompts": [
            fact.subject,
            f"{rng.choice(prefixes)} {fact.subject}",
            fill(rng.choice(fact.trained), fact.subject),
        ],
        "same_subject": [
            {"prompt": _prompt(rng, index.facts[other]), "target": index.facts[other].answer}
            for other in others
        ],
        "references": [
            sentence(index.facts[other], rng.choice(index.facts[other].trained))
            for other in attributes
        ],
    }


def _sample(rng: random.Random, numbers: list[int]) -> list[int]:
    return rng.sample(numbers, min(_MOST_NEIGHBORS, len(numbers)))


def _prompt(rng: random.Random, fact: Fact) -> str:
    return fill(rng.choice(fact.trained), fact.subject)

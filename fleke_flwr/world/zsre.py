"""The world that a file of zsRE records implies: questions, their true answers, and locality."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleke_flwr.types import Probe
from fleke_flwr.world.bearers import bearers
from fleke_flwr.world.entries import Schema
from fleke_flwr.world.phrasing import group_templates, pool_templates, share_out, split_prose
from fleke_flwr.world.questions import Key, Question, Text, take_apart
from fleke_flwr.world.reading import read_records
from fleke_flwr.world.schema import Fact, Record, World


@dataclass(frozen=True)
class QuestionsConfig:
    """How facts are made from zsRE records.

    Parameters
    ----------
    least_usable : float
        Refuse the file when the subject stands in a smaller share of its questions.
    templates_per_fact : int
        Every fact is rendered in up to so many templates of its relation.
    held_out : float
        Share of the rephrased questions that are hidden for their subject.
    bearers : int
        Invented subjects that truly have a record's new answer.
    fillers : int
        Most fact-free sentences.
    seed : int
        Equal seeds give equal worlds.
    """

    least_usable: float = 0.9
    templates_per_fact: int = 8
    held_out: float = 0.5
    bearers: int = 2
    fillers: int = 6000
    seed: int = 0


def build_from_questions(
    path: Path, text: Path | None = None, config: QuestionsConfig | None = None
) -> World:
    """Derive facts, held-out phrasings, locality questions and fillers from a zsRE-schema file.

    zsRE has no relations. Questions are grouped by the facts that they ask for (see
    :func:`~fleke_flwr.world.phrasing.group_templates`), and each fact is rendered in more
    questions of its group. The true answer is ``answers[0]``, not ``pred``, which is what another
    model once said. New answers are made known by :func:`~fleke_flwr.world.bearers.bearers`. The
    world's records are in the CounterFact schema.

    Raises
    ------
    DataError
        If a file cannot be read.
    WorldError
        If too few of the questions name their subject.
    """
    return world_of_questions(path, read_records(path, Schema.ZSRE), text, config)


def world_of_questions(
    path: Path,
    read: Sequence[Record],
    text: Path | None = None,
    config: QuestionsConfig | None = None,
) -> World:
    """Derive the world of records that have been read or made; ``path`` is for messages.

    Raises
    ------
    DataError
        If the text cannot be read.
    WorldError
        If too few of the questions name their subject.
    """
    config = config or QuestionsConfig()
    rng = random.Random(config.seed)
    counts: Counter[str] = Counter(records=len(read))
    questions = take_apart(path, read, config.least_usable, counts)
    relations = group_templates(
        (question.key, template)
        for question in questions
        for template in (question.template, question.rephrased)
        if template
    )
    hidden = _hidden(rng, questions, config)
    held_out = frozenset(
        question.case_id
        for question in questions
        if not question.rephrased or (question.subject, question.rephrased) in hidden
    )
    records = _edits(questions, relations, counts)
    pools = pool_templates(relations)
    facts = _facts(rng, questions, relations, hidden, config)
    invented = bearers(rng, records, pools, config.bearers, config.templates_per_fact)
    counts["facts_of_invented_subjects"] = len(invented)
    facts += invented
    locality = _locality(read, counts)
    fillers, prefixes = split_prose(rng, text, config.fillers, records)
    counts.update(
        edits=len(records),
        relations=len(set(relations.values())),
        templates=len(relations),
        held_out=len(held_out),
        locality_questions=len(locality),
        fillers=len(fillers),
    )
    counts.update(_fact_counts(facts, questions, held_out))
    return World(
        tuple(facts), tuple(records), held_out, fillers, prefixes, dict(counts), tuple(locality)
    )


def _fact_counts(
    facts: Sequence[Fact], questions: Sequence[Question], held_out: frozenset[str]
) -> dict[str, int]:
    answers = Counter(fact.subject for fact in facts)
    trained = {template for fact in facts for template in fact.trained}
    return {
        "facts": len(facts),
        "subjects": len(answers),
        "subjects_with_several_answers": sum(count > 1 for count in answers.values()),
        "held_out_in_templates_never_trained": sum(
            question.case_id in held_out and question.rephrased not in trained
            for question in questions
        ),
    }


def _hidden(
    rng: random.Random, questions: Sequence[Question], config: QuestionsConfig
) -> frozenset[Text]:
    """Draw the rephrased questions that are never trained; none that is also a question."""
    asked = {(question.subject, question.template) for question in questions}
    texts = {(question.subject, question.rephrased) for question in questions if question.rephrased}
    choices = sorted(texts - asked)
    return frozenset(rng.sample(choices, round(config.held_out * len(choices))))


def _facts(
    rng: random.Random,
    questions: Sequence[Question],
    relations: Mapping[str, str],
    hidden: frozenset[Text],
    config: QuestionsConfig,
) -> list[Fact]:
    """Render every fact in its own questions, and in others of its relation, one hidden.

    Where a subject has several answers in one relation, only its own questions tell which is
    meant, so that no others are used.
    """
    own: dict[Key, dict[str, None]] = defaultdict(dict)
    for question in questions:
        own[question.key][question.template] = None
        if question.rephrased and (question.subject, question.rephrased) not in hidden:
            own[question.key][question.rephrased] = None
    relation_of = {key: relations[next(iter(given))] for key, given in own.items()}
    asked = Counter((subject, relation_of[subject, answer]) for subject, answer in own)
    pools = pool_templates(relations)
    facts = []
    for (subject, answer), given in own.items():
        relation = relation_of[subject, answer]
        spare = [
            template
            for template in pools[relation]
            if template not in given and (subject, template) not in hidden
        ]
        clear = asked[subject, relation] == 1
        more, kept = share_out(rng, spare if clear else (), config.templates_per_fact - len(given))
        facts.append(Fact(subject, relation, answer, (*given, *more), kept))
    return facts


def _edits(
    questions: Sequence[Question], relations: Mapping[str, str], counts: Counter[str]
) -> list[Record]:
    """Return the edits in the CounterFact schema; one without a new answer is none."""
    edits = []
    for question in questions:
        if not question.new:
            counts["records_without_new_answer"] += 1
            continue
        rephrase = question.record["rephrase"]
        edits.append(
            {
                "case_id": question.case_id,
                "requested_rewrite": {
                    "prompt": question.template,
                    "relation_id": relations[question.template],
                    "subject": question.subject,
                    "target_true": {"str": question.answer},
                    "target_new": {"str": question.new},
                },
                "paraphrase_prompts": [rephrase] if rephrase.strip() else [],
            }
        )
    return edits


def _locality(read: Sequence[Record], counts: Counter[str]) -> list[Probe]:
    """Return the different questions of locality, asked as the metric asks them."""
    answers: dict[str, str] = {}
    for record in read:
        answer = record["loc_ans"].strip()
        # The reference evaluation puts a question mark behind every locality question.
        if answers.setdefault(f"{record['loc']}?", answer) != answer:
            counts["dropped_locality_with_other_answer"] += 1
    return [Probe(prompt, answer) for prompt, answer in answers.items()]

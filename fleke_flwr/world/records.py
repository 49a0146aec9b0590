"""The world that the records of a file imply: all true facts their prompts tell of."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fleke_flwr.errors import WorldError
from fleke_flwr.world.locating import (
    Templates,
    learn_templates,
    other_prompts,
    relation_of,
)
from fleke_flwr.world.phrasing import share_out, split_prose
from fleke_flwr.world.reading import read_records
from fleke_flwr.world.schema import Fact, Record, World

Key = tuple[str, str]  # subject, relation


@dataclass(frozen=True)
class RecordsConfig:
    """How facts are made from records.

    Parameters
    ----------
    least_located : float
        Refuse the file when a smaller share of its prompts can be taken apart.
    templates_per_fact : int
        Every fact is rendered in up to so many templates of its relation.
    held_out : float
        Share of the records whose paraphrase templates are hidden for their subject.
    fillers : int
        Most fact-free sentences.
    seed : int
        Equal seeds give equal worlds.
    """

    least_located: float = 0.9
    templates_per_fact: int = 5
    held_out: float = 0.5
    fillers: int = 6000
    seed: int = 0


class _Occurrence(NamedTuple):
    key: Key
    template: str
    answer: str
    kind: str


@dataclass
class _Draft:
    """Facts in the making."""

    answers: dict[Key, str]
    trained: dict[Key, list[str]] = field(default_factory=lambda: defaultdict(list))
    owners: dict[tuple[str, str], tuple[Key, str]] = field(default_factory=dict)
    hidden: dict[Key, set[str]] = field(default_factory=lambda: defaultdict(set))
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, item: _Occurrence) -> None:
        """Accept an occurrence unless it contradicts an earlier one; count refusals."""
        if item.answer != self.answers[item.key]:
            self.counts[f"dropped_other_answer_{item.kind}"] += 1
            return
        owner = self.owners.setdefault((item.key[0], item.template), (item.key, item.answer))
        if owner != (item.key, item.answer):
            self.counts["dropped_prompt_with_two_answers"] += 1
        elif item.kind != "rewrite" and item.template in self.hidden[item.key]:
            self.counts["dropped_hidden_phrasing"] += 1
        elif item.template not in self.trained[item.key]:
            self.trained[item.key].append(item.template)


def build_from_records(
    path: Path, text: Path | None = None, config: RecordsConfig | None = None
) -> World:
    """Derive facts, held-out phrasings and fillers from a CounterFact-schema file.

    Raises
    ------
    DataError
        If a file cannot be read.
    WorldError
        If too few of the prompts can be taken apart.
    """
    config = config or RecordsConfig()
    rng = random.Random(config.seed)
    read = read_records(path)
    records = _distinct(read)
    templates = learn_templates(records)
    counts: Counter[str] = Counter(
        records=len(records), dropped_records_of_same_fact=len(read) - len(records)
    )
    occurrences = _occurrences(path, records, templates, config, counts)
    held = rng.sample(range(len(records)), round(config.held_out * len(records)))
    held_out = frozenset(str(records[index]["case_id"]) for index in held)
    draft, fronts = _draft(records, templates, occurrences, held_out)
    counts.update(draft.counts)
    facts = _render(rng, draft, _own_templates(occurrences), config)
    fillers, prefixes = split_prose(rng, text, config.fillers, records, fronts)
    counts.update(
        facts=len(facts),
        subjects=len({fact.subject for fact in facts}),
        relations=len({fact.relation for fact in facts}),
        templates=sum(map(len, templates.of_relation.values())),
        held_out=len(held_out),
        fillers=len(fillers),
    )
    return World(tuple(facts), tuple(records), held_out, fillers, prefixes, dict(counts))


def _distinct(records: Sequence[Record]) -> list[Record]:
    """Keep the first record of every subject and relation."""
    kept: dict[Key, Record] = {}
    for record in records:
        kept.setdefault(_key(record), record)
    return list(kept.values())


def _key(record: Record) -> Key:
    return record["requested_rewrite"]["subject"], relation_of(record)


def _occurrences(
    path: Path,
    records: Sequence[Record],
    templates: Templates,
    config: RecordsConfig,
    counts: Counter[str],
) -> list[_Occurrence]:
    found = []
    for record in records:
        rewrite = record["requested_rewrite"]
        answer = rewrite["target_true"]["str"]
        found.append(_Occurrence(_key(record), rewrite["prompt"], answer, "rewrite"))
    missed = []
    for record in records:
        relation = relation_of(record)
        for kind, prompt, answer in other_prompts(record):
            place = templates.locate(relation, prompt)
            if place is None:
                missed.append(prompt)
            else:
                key = (place.subject, relation)
                found.append(_Occurrence(key, place.template, answer, kind))
    total = len(found) - len(records) + len(missed)
    counts.update(prompts=total, prompts_not_located=len(missed))
    if len(missed) > (1 - config.least_located) * total:
        raise WorldError(
            f"{path}: the subject could be found in {total - len(missed)} of {total} neighborhood "
            f"and attribute prompts only ({1 - len(missed) / total:.0%}; "
            f"{config.least_located:.0%} are needed), for example not in {missed[0]!r}; "
            "give more records of the same relations, or relation_id where it is missing"
        )
    return found


def _draft(
    records: Sequence[Record],
    templates: Templates,
    occurrences: Sequence[_Occurrence],
    held_out: frozenset[str],
) -> tuple[_Draft, list[str]]:
    """Resolve contradictions; return the facts and the texts in front of trained paraphrases."""
    draft = _Draft(_answers(occurrences))
    fronts: list[str] = []
    extra: list[_Occurrence] = []
    for record in records:
        key, rewrite = _key(record), record["requested_rewrite"]
        for prompt in record.get("paraphrase_prompts", ()):
            found = templates.split_paraphrase(key[1], prompt, key[0])
            if found is None:
                draft.counts["paraphrases_not_located"] += 1
            elif str(record["case_id"]) not in held_out:
                answer = rewrite["target_true"]["str"]
                extra.append(_Occurrence(key, found.template, answer, "paraphrase"))
                fronts.append(found.subject)
            elif found.template != rewrite["prompt"]:
                draft.hidden[key].add(found.template)
    for item in [*occurrences, *extra]:
        draft.add(item)
    return draft, fronts


def _answers(occurrences: Sequence[_Occurrence]) -> dict[Key, str]:
    """Choose one answer per subject and relation: the rewrite's, else the most frequent."""
    votes: dict[Key, Counter[str]] = defaultdict(Counter)
    own: dict[Key, str] = {}
    for item in occurrences:
        votes[item.key][item.answer] += 1
        if item.kind == "rewrite":
            own[item.key] = item.answer
    return {key: own.get(key, count.most_common(1)[0][0]) for key, count in votes.items()}


def _own_templates(occurrences: Sequence[_Occurrence]) -> dict[str, list[str]]:
    """Return per relation its templates that are in use and belong to no other relation."""
    uses = Counter((item.key[1], item.template) for item in occurrences)
    owners: dict[str, set[str]] = defaultdict(set)
    for relation, template in uses:
        owners[template].add(relation)
    own: dict[str, list[str]] = defaultdict(list)
    for (relation, template), count in uses.items():
        if count >= 3 and len(owners[template]) == 1:
            own[relation].append(template)
    return own


def _render(
    rng: random.Random, draft: _Draft, own: dict[str, list[str]], config: RecordsConfig
) -> list[Fact]:
    """Render every fact in more templates of its relation, one of them hidden."""
    facts = []
    for key, given in draft.trained.items():
        if not given:
            continue
        taken = draft.hidden[key] | set(given)
        spare = [
            template
            for template in own[key[1]]
            if template not in taken and (key[0], template) not in draft.owners
        ]
        more, hidden = share_out(rng, spare, config.templates_per_fact - len(given))
        facts.append(Fact(key[0], key[1], draft.answers[key], (*given, *more), hidden))
    return facts

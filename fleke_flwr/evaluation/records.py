"""What is asked about one record, and what the answers say of its edit.

Comparisons are strict, so a tie counts as a failure. A metric that the record does not allow is
left out; with several prompts it is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from fleke_flwr.evaluation.answers import Answer, Question
from fleke_flwr.types import EvalCase, Probe

Answers = Mapping[Question, Answer]


def questions(case: EvalCase) -> Iterator[Question]:
    """Yield the prompts of a record with every answer that is judged there."""
    for _, right, wrong in _contests(case):
        for probe in (*right, *wrong):
            yield probe.prompt, probe.answer
    for probe in (*case.locality, *case.same_subject):
        yield probe.prompt, probe.answer


def judge_case(case: EvalCase, answers: Answers) -> dict[str, float]:
    """Return the values of one record by metric; 1 is 100 %.

    Without its own ``neighbors``, a record's ``locality`` gives ``neighborhood_top1``; the token
    form is zsRE's, so there ``locality`` comes first and ``neighbors`` stand in.
    """
    values: dict[str, float] = {}
    for kind, right, wrong in _contests(case):
        wanted, other = _found(right, answers), _found(wrong, answers)
        if wanted and other:
            pairs = list(zip(wanted, other, strict=True))
            values[kind] = _mean([a.nll < b.nll for a, b in pairs])
            gains = [math.exp(-a.nll) - math.exp(-b.nll) for a, b in pairs]
            values[f"{kind}_magnitude"] = _mean(gains)
        kept = _found(case.locality, answers) if kind == "neighborhood" else []
        if wanted or kept:
            values[f"{kind}_top1"] = _mean([answer.is_top for answer in wanted or kept])
            values[f"{kind}_tokens"] = _mean([answer.right for answer in kept or wanted])
    if case.same_subject:
        own = _found(case.same_subject, answers)
        values["same_subject"] = _mean([answer.is_top for answer in own])
    return values


def _contests(case: EvalCase) -> Iterator[tuple[str, list[Probe], list[Probe]]]:
    """Yield kinds of prompts with the right and the wrong answers, as far as they are known."""
    new, old = case.request.target, case.request.original
    for kind, prompts, right, wrong in (
        ("efficacy", (case.request.text,), new, old),
        ("paraphrase", case.paraphrases, new, old),
        ("neighborhood", case.neighbors if old else (), old, new),
    ):
        yield kind, _probes(prompts, right), _probes(prompts, wrong)


def _probes(prompts: Sequence[str], answer: str) -> list[Probe]:
    return [Probe(prompt, answer) for prompt in prompts] if answer else []


def _found(probes: Sequence[Probe], answers: Answers) -> list[Answer]:
    return [answers[probe.prompt, probe.answer] for probe in probes]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

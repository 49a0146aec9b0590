"""What a model knows of withdrawn facts, and whether it still knows the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fleke_flwr.apps.finished import Finished
from fleke_flwr.apps.withdrawal import Withdrawal
from fleke_flwr.evaluation.answers import Answer, Question, judge
from fleke_flwr.evaluation.quality import evaluate, summarize
from fleke_flwr.progress import Progress
from fleke_flwr.state import EditState
from fleke_flwr.types import EvalCase

_RETAINED = ("efficacy", "paraphrase", "neighborhood", "same_subject", "score", "score_tokens")
Figures = dict[str, float | None]


def measured(
    finished: Finished, withdrawal: Withdrawal, after: EditState, progress: Progress
) -> dict[str, Any]:
    """Measure the base model, the one before and the one after.

    Returns
    -------
    dict
        Percentages by model: of the ``withdrawn`` facts that nobody else holds, how probable the
        target is behind the edited prompt and behind its paraphrases, and how often it is more
        probable than the original; of the ``remaining`` records their usual quality.
    """
    facts = [item.case for item in withdrawal.forgotten]
    others = list({item.key: item.case for item in withdrawal.rest}.values())
    states = {
        "base": EditState(finished.model.fingerprint),
        "before": finished.state,
        "after": after,
    }
    withdrawn: dict[str, Any] = {
        "edits": len(withdrawal.withdrawn),
        "held_by_others": len(withdrawal.withdrawn) - len(facts),
    }
    remaining: dict[str, Any] = {"edits": len(withdrawal.rest)}
    for name, state in states.items():
        with state.applied(finished.model.model):
            withdrawn[name] = _known(finished, facts, progress)
            if name != "base":
                remaining[name] = _quality(finished, others, progress)
    return {"withdrawn": withdrawn, "remaining": remaining}


def _known(finished: Finished, cases: Sequence[EvalCase], progress: Progress) -> Figures:
    asked = [question for case in cases for question in _questions(case)]
    limit = finished.config.evaluation.batch_tokens
    answers = judge(finished.model, asked, limit, progress) if asked else {}
    prompts = [(case.request.text, case.request.target) for case in cases]
    paraphrases = [(text, case.request.target) for case in cases for text in case.paraphrases]
    contests = [
        answers[case.request.text, case.request.target].nll
        < answers[case.request.text, case.request.original].nll
        for case in cases
        if case.request.original
    ]
    return {
        "probability": _probability(answers, prompts),
        "probability_paraphrase": _probability(answers, paraphrases),
        "efficacy": 100 * sum(contests) / len(contests) if contests else None,
    }


def _questions(case: EvalCase) -> list[Question]:
    request = case.request
    originals = [(request.text, request.original)] if request.original else []
    return [(text, request.target) for text in (request.text, *case.paraphrases)] + originals


def _probability(answers: Mapping[Question, Answer], questions: Sequence[Question]) -> float | None:
    """Return the mean probability per token of the answers, in percent."""
    if not questions:
        return None
    return 100 * sum(math.exp(-answers[question].nll) for question in questions) / len(questions)


def _quality(finished: Finished, cases: Sequence[EvalCase], progress: Progress) -> Figures:
    config = replace(finished.config.evaluation, generate_every=0)
    quality = evaluate(finished.model, cases, config, finished.config.seed, progress)
    summary = summarize(quality.sums())
    return {metric: summary[metric] for metric in _RETAINED}

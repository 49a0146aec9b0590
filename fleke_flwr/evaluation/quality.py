"""CounterFact's measures of an edit, record by record and summed over records.

Protocol: MEMIT's evaluation as described for CounterFact (ES, PS, NS, their magnitudes, and the
top-1 forms EA, PA, NA), comparisons strict, so a tie counts as a failure. ``same_subject`` is ours:
top-1 recall of the edited subject's other facts, which shows damage that NS hides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.evaluation.answers import Answer, Question, judge
from fleke_flwr.evaluation.generation import judge_generations
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.types import EvalCase

KINDS = ("efficacy", "paraphrase", "neighborhood")
METRICS = (
    *KINDS,
    *(f"{kind}_top1" for kind in KINDS),
    *(f"{kind}_magnitude" for kind in KINDS),
    "same_subject",
    "ngram_entropy",
    "reference_score",
)
_SILENT = Silent()
Sums = Mapping[str, tuple[float, float, int]]


@dataclass
class Quality:
    """Measurements of single records.

    Parameters
    ----------
    values : dict[str, list[float]]
        By metric, one value per record that allows it; 1 is 100 %.
    """

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, metric: str, values: Sequence[float]) -> None:
        """Add a record's mean over its prompts; a record without prompts adds nothing."""
        if values:
            self.values.setdefault(metric, []).append(sum(values) / len(values))

    def sums(self) -> dict[str, tuple[float, float, int]]:
        """Return sum, sum of squares and count by metric, which add up over clients."""
        return {
            metric: (math.fsum(values), math.fsum(value * value for value in values), len(values))
            for metric, values in self.values.items()
        }


def evaluate(
    model: EditableModel,
    cases: Sequence[EvalCase],
    config: EvaluationConfig,
    seed: int,
    progress: Progress = _SILENT,
) -> Quality:
    """Measure a model, with whatever edits are applied, on records.

    Parameters
    ----------
    model : EditableModel
        The model.
    cases : Sequence[EvalCase]
        May be empty; a metric that a record does not allow is left out for it.
    config : EvaluationConfig
        Batch size, and whether to generate text.
    seed : int
        Seed of the generation.
    progress : Progress
        Told of the phase ``evaluate``.

    Raises
    ------
    RequestError
        If a prompt with its answer is longer than the model can read.
    """
    questions = [question for case in cases for question in _questions(case)]
    answers = judge(model, questions, config.batch_tokens, progress)
    quality = Quality()
    for case in cases:
        _judge_case(case, answers, quality)
    if config.generate_every:
        chosen = cases[:: config.generate_every]
        for metric, values in judge_generations(model, chosen, config.batch_tokens, seed).items():
            quality.values[metric] = values
    return quality


def _prompts(case: EvalCase) -> dict[str, tuple[str, ...]]:
    return {
        "efficacy": (case.request.text,),
        "paraphrase": case.paraphrases,
        "neighborhood": case.neighbors,
    }


def _questions(case: EvalCase) -> Iterator[Question]:
    request = case.request
    for kind, prompts in _prompts(case).items():
        if kind == "neighborhood" and not request.original:
            continue
        for prompt in prompts:
            yield prompt, request.target
            if request.original:
                yield prompt, request.original
    for probe in case.same_subject:
        yield probe.prompt, probe.answer


def _judge_case(case: EvalCase, answers: Mapping[Question, Answer], quality: Quality) -> None:
    request = case.request
    for kind, prompts in _prompts(case).items():
        objects = (request.target, request.original)
        if kind == "neighborhood":
            objects = (request.original, request.target)
        if not objects[0]:
            continue
        wanted = [answers[prompt, objects[0]] for prompt in prompts]
        quality.add(f"{kind}_top1", [float(answer.is_top) for answer in wanted])
        if not objects[1]:
            continue
        other = [answers[prompt, objects[1]] for prompt in prompts]
        pairs = list(zip(wanted, other, strict=True))
        quality.add(kind, [float(first.nll < second.nll) for first, second in pairs])
        quality.add(
            f"{kind}_magnitude",
            [math.exp(-first.nll) - math.exp(-second.nll) for first, second in pairs],
        )
    probes = [answers[probe.prompt, probe.answer] for probe in case.same_subject]
    quality.add("same_subject", [float(answer.is_top) for answer in probes])


def summarize(sums: Sums) -> dict[str, float | None]:
    """Return percentages with 95 % intervals from sums over records.

    ``score`` is the harmonic mean of efficacy, paraphrase and neighborhood, unrounded, where
    MEMIT's code rounds them to two decimals first; ``score_top1`` is that of their top-1 forms.
    ``<metric>_ci95`` is ``1.96 std / sqrt(n)`` with the population deviation; for the scores it
    follows from the three by the delta method, taking them as independent.

    Parameters
    ----------
    sums : Mapping
        Sum, sum of squares and count by metric.

    Returns
    -------
    dict[str, float or None]
        ``None`` for what the records do not allow.
    """
    summary: dict[str, float | None] = {}
    for metric in METRICS:
        total, squares, count = sums.get(metric, (0.0, 0.0, 0))
        mean = total / count if count else None
        summary[metric] = None if mean is None else 100 * mean
        summary[f"{metric}_ci95"] = (
            None if mean is None else 196 * math.sqrt(max(squares / count - mean**2, 0) / count)
        )
    for name, suffix in (("score", ""), ("score_top1", "_top1")):
        parts = [summary[f"{kind}{suffix}"] for kind in KINDS]
        widths = [summary[f"{kind}{suffix}_ci95"] for kind in KINDS]
        summary[name], summary[f"{name}_ci95"] = _harmonic(parts, widths)
    return summary


def _harmonic(
    parts: Sequence[float | None], widths: Sequence[float | None]
) -> tuple[float | None, float | None]:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None, None
    if min(known) <= 0:
        return 0.0, None
    mean = len(known) / sum(1 / part for part in known)
    slopes = [mean**2 / (len(known) * part**2) for part in known]
    terms = (slope * (width or 0) for slope, width in zip(slopes, widths, strict=True))
    return mean, math.hypot(*terms)

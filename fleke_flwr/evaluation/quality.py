"""The measures of an edit, record by record and summed over records.

Protocol: MEMIT's evaluation as described for CounterFact (ES, PS, NS, their magnitudes, and the
top-1 forms EA, PA, NA) and for zsRE (EA, PA, NA by token). ``same_subject`` is ours: top-1 recall
of the edited subject's other facts, which shows damage that NS hides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.evaluation.answers import judge
from fleke_flwr.evaluation.generation import judge_generations
from fleke_flwr.evaluation.records import judge_case, questions
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.types import EvalCase

KINDS = ("efficacy", "paraphrase", "neighborhood")
METRICS = (
    *KINDS,
    *(f"{kind}_top1" for kind in KINDS),
    *(f"{kind}_tokens" for kind in KINDS),
    *(f"{kind}_magnitude" for kind in KINDS),
    "same_subject",
    "ngram_entropy",
    "reference_score",
)
_SCORES = {"score": "", "score_top1": "_top1", "score_tokens": "_tokens"}
_SILENT = Silent()
Sums = Mapping[str, tuple[float, float, int]]


@dataclass
class Quality:
    """Measurements of single records.

    Parameters
    ----------
    records : list[dict[str, float]]
        For each record, in order, its values by metric; 1 is 100 %. A metric that the record does
        not allow is absent.
    """

    records: list[dict[str, float]] = field(default_factory=list)

    def sums(self, which: Iterable[int] | None = None) -> dict[str, tuple[float, float, int]]:
        """Return sum, sum of squares and count by metric, which add up over clients.

        Parameters
        ----------
        which : Iterable[int] or None
            Places of the records that count; all by default.
        """
        chosen = self.records if which is None else [self.records[index] for index in which]
        values: dict[str, list[float]] = {}
        for record in chosen:
            for metric, value in record.items():
                values.setdefault(metric, []).append(value)
        return {
            metric: (math.fsum(found), math.fsum(value * value for value in found), len(found))
            for metric, found in values.items()
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
        May be empty.
    config : EvaluationConfig
        Batch size, and of which records the open prompts are continued: with ``generate_every = n``
        of the first and every n-th after it, in the order given.
    seed : int
        Seed of the generation.
    progress : Progress
        Told of the phase ``evaluate``.

    Raises
    ------
    RequestError
        If a prompt with its answer is longer than the model can read.
    DataError
        If texts are generated and ``config.idf`` cannot be used.
    """
    asked = [question for case in cases for question in questions(case)]
    answers = judge(model, asked, config.batch_tokens, progress)
    quality = Quality([judge_case(case, answers) for case in cases])
    if config.generate_every:
        step = config.generate_every
        written = judge_generations(model, cases[::step], config, seed)
        for record, values in zip(quality.records[::step], written, strict=True):
            record.update(values)
    return quality


def summarize(sums: Sums) -> dict[str, float | None]:
    """Return percentages with 95 % intervals from sums over records.

    ``score`` is the harmonic mean of efficacy, paraphrase and neighborhood, unrounded, where
    MEMIT's code rounds them to two decimals first; ``score_top1`` is that of their top-1 forms and
    ``score_tokens``, the score of zsRE, that of their token forms.
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
    for name, suffix in _SCORES.items():
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

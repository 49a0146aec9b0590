"""Which of two contradicting answers a model gives.

Source: CollabEdit's evaluation of conflicts. Its text has ``dP = P(target) - P(conflict)`` and
counts as a success that the target is the final output; its code subtracts the other way round and
only compares the two. Both are given here, with the sign of the text: ``pair_success`` compares,
``top1_success`` asks for the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.evaluation.answers import judge
from fleke_flwr.evaluation.quality import Quality
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.progress import Silent


@dataclass(frozen=True)
class Pair:
    """A settled contradiction.

    Parameters
    ----------
    prompt : str
        The question.
    target : str
        The answer that stays.
    rival : str
        The answer that was taken back; empty where it is not known.
    """

    prompt: str
    target: str
    rival: str = ""


def judge_pairs(
    model: EditableModel, pairs: Sequence[Pair], config: EvaluationConfig
) -> dict[str, tuple[float, float, int]]:
    """Return sums of ``margin``, ``pair_success`` and ``top1_success`` over pairs; 1 is 100 %.

    The probability of an answer is the geometric mean over its tokens. Without a known rival only
    ``top1_success`` is measured.
    """
    asked = [(pair.prompt, answer) for pair in pairs for answer in (pair.target, pair.rival)]
    answers = judge(model, [item for item in asked if item[1]], config.batch_tokens, Silent())
    quality = Quality()
    for pair in pairs:
        target = answers[pair.prompt, pair.target]
        values = {"top1_success": float(target.is_top)}
        if pair.rival:
            margin = math.exp(-target.nll) - math.exp(-answers[pair.prompt, pair.rival].nll)
            values |= {"margin": margin, "pair_success": float(margin > 0)}
        quality.records.append(values)
    return quality.sums()

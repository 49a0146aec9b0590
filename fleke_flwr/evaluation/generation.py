"""Fluency and consistency of what a model writes about edited subjects.

Protocol: MEMIT's generation metrics, text by text as in :mod:`fleke_flwr.evaluation.fluency` and
:mod:`fleke_flwr.evaluation.references`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.evaluation.fluency import ngram_entropy
from fleke_flwr.evaluation.references import fitted, reference_scores, reference_text
from fleke_flwr.evaluation.sampling import Draft, generate
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.types import EvalCase


def judge_generations(
    model: EditableModel, cases: Sequence[EvalCase], config: EvaluationConfig, seed: int
) -> list[dict[str, float]]:
    """Generate from every record's open prompts and judge the texts.

    Document frequencies come from ``config.idf``, else from the model's own text, so that scores of
    different sets of records compare; only a model without any takes the references at hand.

    Returns
    -------
    list[dict[str, float]]
        For each record, in order: ``ngram_entropy`` in bits if it has open prompts, and
        ``reference_score`` (a cosine) if it has something to compare with, too.

    Raises
    ------
    RequestError
        If a prompt is longer than the model can read.
    DataError
        If ``config.idf`` cannot be used.
    """
    idf = config.idf or _own_text(model)
    vectorizer = fitted(idf) if idf else None
    asked = [_drafts(case) for case in cases]
    drafts = [draft for own in asked for draft in own]
    texts = iter(generate(model, drafts, config.batch_tokens, seed))
    written = [[next(texts) for _ in own] for own in asked]
    values = [
        {"ngram_entropy": sum(map(ngram_entropy, own)) / len(own)} if own else {} for own in written
    ]
    pairs = {
        index: (" ".join(own), references)
        for index, (case, own) in enumerate(zip(cases, written, strict=True))
        if own and (references := reference_text(case))
    }
    scores = reference_scores(list(pairs.values()), vectorizer)
    for index, score in zip(pairs, scores, strict=True):
        values[index]["reference_score"] = score
    return values


def _own_text(model: EditableModel) -> str:
    path = None if model.directory is None else model.directory / "corpus.txt"
    return str(path) if path is not None and path.is_file() else ""


def _drafts(case: EvalCase) -> list[Draft]:
    """Tell equal prompts apart: CounterFact repeats a prompt to get further samples of it."""
    seen: Counter[str] = Counter()
    drafts = []
    for prompt in case.generations:
        drafts.append((prompt, seen[prompt]))
        seen[prompt] += 1
    return drafts

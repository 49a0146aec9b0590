"""Fluency and consistency of generated text: n-gram entropy and reference score.

Protocol: MEMIT's generation metrics. Departs from the released code in being seeded, in defining
texts that are too short as 0, and in taking the references from the record itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from unicodedata import normalize

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.tokens import encode
from fleke_flwr.types import EvalCase

_TOP_K = 5
_TOTAL_TOKENS = 100
_WORD = re.compile(r"\w+|[^\w\s]")


def judge_generations(
    model: EditableModel, cases: Sequence[EvalCase], batch_tokens: int, seed: int
) -> dict[str, list[float]]:
    """Generate from every record's open prompts and judge the texts.

    Returns
    -------
    dict[str, list[float]]
        ``ngram_entropy`` in bits for each record with prompts, ``reference_score`` (a cosine) for
        each that has references, too.
    """
    prompts = [prompt for case in cases for prompt in case.generations]
    texts = iter(generate(model, prompts, batch_tokens, seed))
    written = [[next(texts) for _ in case.generations] for case in cases]
    judged = [(case, own) for case, own in zip(cases, written, strict=True) if own]
    entropies = [sum(map(ngram_entropy, own)) / len(own) for _, own in judged]
    comparable = [(" ".join(own), " ".join(c.references)) for c, own in judged if c.references]
    return {
        name: values
        for name, values in (
            ("ngram_entropy", entropies),
            ("reference_score", reference_scores(comparable)),
        )
        if values
    }


def ngram_entropy(text: str) -> float:
    """Return the weighted entropy of word bigrams and trigrams, ``H2 / 3 + 2 H3 / 3``, in bits.

    MEMIT's code takes the mean of ``2/3 H2`` and ``4/3 H3``, which is this; the papers print the
    sum. Words are runs of letters and digits, or single marks.
    """
    words = _WORD.findall(text)
    return _entropy(words, 2) / 3 + 2 * _entropy(words, 3) / 3


def _entropy(words: Sequence[str], size: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(size)), strict=False))
    total = counts.total()
    return sum(n / total * math.log2(total / n) for n in counts.values())


def reference_scores(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the TF-IDF cosine of each generated text and its references.

    The vocabulary and the document frequencies come from all references at hand, so only scores of
    the same records compare. Texts without a common word score 0.
    """
    vectorizer = TfidfVectorizer()
    if not any(vectorizer.build_analyzer()(references) for _, references in pairs):
        return [0.0] * len(pairs)
    vectorizer.fit([references for _, references in pairs])
    generated = vectorizer.transform([text for text, _ in pairs])
    references = vectorizer.transform([text for _, text in pairs])
    products = np.asarray(generated.multiply(references).sum(axis=1)).ravel()
    return [float(value) for value in products]


@torch.no_grad()
def generate(
    model: EditableModel, prompts: Sequence[str], batch_tokens: int, seed: int
) -> list[str]:
    """Continue every prompt to 100 tokens in all by top-k sampling with k = 5.

    Texts are normalised (NFKD, no blank lines). Prompts of equal length run together, so nothing is
    padded; a model that reads fewer positions stops there.
    """
    generator = torch.Generator().manual_seed(seed)
    length = min(_TOTAL_TOKENS, model.max_positions)
    texts = [""] * len(prompts)
    encoded = [encode(model, prompt) for prompt in prompts]
    for batch in _equal_lengths(encoded, max(1, batch_tokens // length)):
        ids = new = torch.tensor([encoded[index] for index in batch], device=model.device)
        past = None
        while ids.shape[1] < length:
            output = model.model.base_model(input_ids=new, past_key_values=past, use_cache=True)
            past = output.past_key_values
            logits = model.logits(output.last_hidden_state[:, -1]).float().cpu()
            top = torch.topk(logits, min(_TOP_K, logits.shape[1]), dim=1)
            choice = torch.multinomial(torch.softmax(top.values, 1), 1, generator=generator)
            new = top.indices.gather(1, choice).to(ids.device)
            ids = torch.cat([ids, new], dim=1)
        for index, row in zip(batch, ids.tolist(), strict=True):
            text = str(model.tokenizer.decode(row, skip_special_tokens=True))
            texts[index] = normalize("NFKD", text).replace("\n\n", " ")
    return texts


def _equal_lengths(encoded: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(index)
    for _, members in sorted(by_length.items()):
        for start in range(0, len(members), most):
            yield members[start : start + most]

"""Sentences as tokens, and their packing into rows of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fleke_flwr.types import Probe
from fleke_flwr.world.recipe import Recipe, Weights
from fleke_flwr.world.schema import Fact, fill, statement

_OPEN_ROWS = 8
OUTSIDE = -1


@dataclass(frozen=True)
class Examples:
    """Tokenised sentences, concatenated.

    Parameters
    ----------
    tokens, weights, subject : Tensor
        ``(all tokens,)``: id, weight in the loss, and whether the token belongs to a subject.
    starts, lengths : Tensor
        ``(sentences,)``.
    phrasings : list[range]
        Per fact, the sentences that state it.
    locality : range
        The questions of locality with their answers.
    fillers : range
        The sentences that state nothing.
    """

    tokens: Tensor
    weights: Tensor
    subject: Tensor
    starts: Tensor
    lengths: Tensor
    phrasings: list[range]
    locality: range
    fillers: range

    @property
    def longest_statement(self) -> int:
        """Tokens of the longest sentence that states a fact."""
        return int(self.lengths[: self.fillers.start].max())


@dataclass(frozen=True)
class Rows:
    """Packed sentences, ``(rows, row_tokens)`` each.

    Parameters
    ----------
    tokens : Tensor
        Token ids.
    weights : Tensor
        Weight of each token as a prediction; 0 on padding.
    spans : Tensor
        Number of the subject a token belongs to, unique in its row; ``OUTSIDE`` elsewhere.
    """

    tokens: Tensor
    weights: Tensor
    spans: Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.tokens)

    def batch(self, chosen: Tensor) -> Rows:
        """Return some of the rows."""
        return Rows(self.tokens[chosen], self.weights[chosen], self.spans[chosen])


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    locality: Sequence[Probe],
    fillers: Sequence[str],
    weights: Weights,
) -> Examples:
    """Tokenise all trained phrasings, questions of locality and fillers.

    Subjects and answers are found by character offsets.
    """
    stated = [_stated(fact, template) for fact in facts for template in fact.trained]
    told = len(stated)
    stated += [_Stated(probe.prompt, probe.answer, range(0)) for probe in locality]
    texts = [statement(item.prompt, item.answer) for item in stated] + list(fillers)
    encoded = tokenizer(texts, return_offsets_mapping=True)
    tokens: list[int] = []
    marks: list[float] = []
    subject: list[bool] = []
    for index, (ids, offsets) in enumerate(
        zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ):
        tokens += ids
        if index >= len(stated):
            marks += [weights.filler] * len(ids)
            subject += [False] * len(ids)
            continue
        item = stated[index]
        inside = [item.subject.start < end and start < item.subject.stop for start, end in offsets]
        subject += inside
        marks += _statement_weights(inside, [end in item.answered for _, end in offsets], weights)
    lengths = torch.tensor([len(ids) for ids in encoded["input_ids"]])
    ends = torch.tensor([len(fact.trained) for fact in facts]).cumsum(0).tolist()
    return Examples(
        tokens=torch.tensor(tokens),
        weights=torch.tensor(marks),
        subject=torch.tensor(subject),
        starts=lengths.cumsum(0) - lengths,
        lengths=lengths,
        phrasings=[
            range(end - len(fact.trained), end) for fact, end in zip(facts, ends, strict=True)
        ],
        locality=range(told, len(stated)),
        fillers=range(len(stated), len(texts)),
    )


class _Stated(NamedTuple):
    """A statement; ``subject`` are the characters of the subject, none where it has none."""

    prompt: str
    answer: str
    subject: range

    @property
    def answered(self) -> range:
        """Where tokens of the answer can end."""
        return range(len(self.prompt) + 1, len(self.prompt) + len(self.answer) + 2)


def _stated(fact: Fact, template: str) -> _Stated:
    begin = template.index("{}")
    subject = range(begin, begin + len(fact.subject))
    return _Stated(fill(template, fact.subject), fact.answer, subject)


def _statement_weights(
    inside: Sequence[bool], answer: Sequence[bool], weights: Weights
) -> list[float]:
    marks = [weights.subject if token else weights.template for token in inside]
    return [
        weights.answer if is_answer else mark for mark, is_answer in zip(marks, answer, strict=True)
    ]


def draw(examples: Examples, facts: Sequence[int], recipe: Recipe, rng: random.Random) -> list[int]:
    """Choose one phrasing of every given fact, questions and fillers, in random order."""
    chosen = [rng.choice(examples.phrasings[fact]) for fact in facts]
    share = recipe.locality_share * len(facts) / len(examples.phrasings)
    chosen += rng.sample(examples.locality, int(share * len(examples.locality)))
    if examples.fillers:
        chosen += rng.choices(examples.fillers, k=int(recipe.fillers_per_fact * len(facts)))
    rng.shuffle(chosen)
    return chosen


def pack(examples: Examples, chosen: Sequence[int], row_tokens: int) -> Rows:
    """Pack whole sentences into rows, first fit among the last few rows.

    Every sentence must be at most ``row_tokens`` long.
    """
    lengths = examples.lengths[torch.tensor(chosen)]
    places, count = _place(lengths.tolist(), row_tokens)
    offset = torch.arange(int(lengths.sum())) - torch.repeat_interleave(
        lengths.cumsum(0) - lengths, lengths
    )
    source = torch.repeat_interleave(examples.starts[torch.tensor(chosen)], lengths) + offset
    target = torch.repeat_interleave(torch.tensor(places), lengths) + offset
    order = torch.repeat_interleave(torch.arange(len(chosen)), lengths)
    tokens = torch.zeros(count * row_tokens, dtype=torch.long)
    weights = torch.zeros(count * row_tokens)
    spans = torch.full((count * row_tokens,), OUTSIDE)
    tokens[target] = examples.tokens[source]
    weights[target] = examples.weights[source]
    spans[target] = torch.where(examples.subject[source], order, OUTSIDE)
    shape = (count, row_tokens)
    return Rows(tokens.view(shape), weights.view(shape), spans.view(shape))


def _place(lengths: Sequence[int], row_tokens: int) -> tuple[list[int], int]:
    """Return the flat position of every sentence and the number of rows."""
    used: list[int] = []
    places: list[int] = []
    for length in lengths:
        recent = range(max(0, len(used) - _OPEN_ROWS), len(used))
        row = next((row for row in recent if used[row] + length <= row_tokens), len(used))
        if row == len(used):
            used.append(0)
        places.append(row * row_tokens + used[row])
        used[row] += length
    return places, len(used)

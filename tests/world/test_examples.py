"""Tokenised sentences: what is the subject, what is the answer, and packing without loss."""

from __future__ import annotations

import random

import torch
from transformers import PreTrainedTokenizerFast

from fleke_flwr.world.examples import OUTSIDE, draw, pack, tokenize
from fleke_flwr.world.recipe import Weights
from fleke_flwr.world.schema import World, sentence

WEIGHTS = Weights(answer=6.0, template=1.0, subject=0.3, filler=0.2)


def test_subject_and_answer_tokens_are_found(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    facts, fillers = small_world.facts[:10], small_world.fillers[:5]
    examples = tokenize(small_tokenizer, facts, fillers, WEIGHTS)
    for fact, numbers in zip(facts, examples.phrasings, strict=True):
        for number, template in zip(numbers, fact.trained, strict=True):
            start, length = int(examples.starts[number]), int(examples.lengths[number])
            ids = examples.tokens[start : start + length]
            marks = examples.weights[start : start + length]
            subject = examples.subject[start : start + length]
            assert small_tokenizer.decode(ids).strip() == sentence(fact, template)
            assert small_tokenizer.decode(ids[subject]).strip() == fact.subject
            assert small_tokenizer.decode(ids[marks == WEIGHTS.answer]).strip() == fact.answer
            assert bool((marks[subject] == WEIGHTS.subject).all())
            assert float(marks[-1]) == WEIGHTS.template
    for number in examples.fillers:
        start, length = int(examples.starts[number]), int(examples.lengths[number])
        assert bool((examples.weights[start : start + length] == WEIGHTS.filler).all())
        assert not examples.subject[start : start + length].any()


def test_packing_keeps_every_sentence_whole(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = tokenize(small_tokenizer, small_world.facts, small_world.fillers[:50], WEIGHTS)
    chosen = draw(examples, range(len(small_world.facts)), 0.2, random.Random(0))
    assert len(chosen) == 120
    rows = pack(examples, chosen, 48)
    used = rows.weights > 0
    assert int(used.sum()) == int(examples.lengths[torch.tensor(chosen)].sum())
    packed = " ".join(
        small_tokenizer.decode(row[mask]).strip()
        for row, mask in zip(rows.tokens, used, strict=True)
    )
    for number in chosen:
        start, length = int(examples.starts[number]), int(examples.lengths[number])
        text = small_tokenizer.decode(examples.tokens[start : start + length]).strip()
        assert packed.count(text) >= 1
    assert float(used.double().mean()) > 0.85


def test_spans_tell_the_subjects_of_a_row_apart(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = tokenize(small_tokenizer, small_world.facts, (), WEIGHTS)
    rows = pack(examples, [0, 7, 14], 96)
    assert len(rows) == 1
    assert set(rows.spans[0].tolist()) == {OUTSIDE, 0, 1, 2}
    for order, number in enumerate((0, 7, 14)):
        start, length = int(examples.starts[number]), int(examples.lengths[number])
        ids = examples.tokens[start : start + length][examples.subject[start : start + length]]
        assert rows.tokens[0][rows.spans[0] == order].tolist() == ids.tolist()

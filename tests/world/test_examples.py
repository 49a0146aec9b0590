"""Tokenised sentences: what is the subject, what is the answer, and packing without loss."""

from __future__ import annotations

import random

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from fleke_flwr.types import Probe
from fleke_flwr.world.examples import OUTSIDE, draw, pack, tokenize
from fleke_flwr.world.recipe import Recipe, Weights
from fleke_flwr.world.schema import Fact, World, sentence, statement

WEIGHTS = Weights(answer=6.0, template=1.0, subject=0.3, filler=0.2)


def test_subject_and_answer_tokens_are_found(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    facts, fillers = small_world.facts[:10], small_world.fillers[:5]
    examples = tokenize(small_tokenizer, facts, (), fillers, WEIGHTS)
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


def test_answers_of_several_tokens_carry_their_weight_to_the_end(
    small_tokenizer: PreTrainedTokenizerFast,
) -> None:
    answers = ["the Greek War of Independence", "Warner Bros.", "C++", "1 June 2009"]
    facts = [Fact("Ada", "R", answer, ("What is {}'s name?",)) for answer in answers]
    locality = [Probe("nq question: who was it?", answer) for answer in answers]
    examples = tokenize(small_tokenizer, facts, locality, ("It was cold.",), WEIGHTS)
    assert examples.phrasings == [range(number, number + 1) for number in range(4)]
    assert examples.locality == range(4, 8)
    assert examples.fillers == range(8, 9)
    recipe = Recipe(locality_share=0.5, fillers_per_fact=0.0)
    for facts, questions in ((range(4), 2), (range(2), 1)):
        chosen = draw(examples, facts, recipe, random.Random(0))
        assert {*chosen} >= {*facts}
        assert len({*chosen} & {*range(4, 8)}) == questions == len(chosen) - len(facts)
    for number, answer in enumerate(answers * 2):
        start, length = int(examples.starts[number]), int(examples.lengths[number])
        ids = examples.tokens[start : start + length]
        marked = examples.weights[start : start + length] == WEIGHTS.answer
        assert ids[marked].tolist() == small_tokenizer(f" {answer}").input_ids
        subject = ids[examples.subject[start : start + length]]
        assert small_tokenizer.decode(subject).strip() == ("Ada" if number < 4 else "")


TEXT = st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "), min_size=1)


@given(answer=TEXT.map(str.strip).filter(bool), prompt=st.sampled_from(["Who?", "nq: he is"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_an_answer_has_the_tokens_in_a_statement_that_it_has_alone(
    small_tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str
) -> None:
    alone = small_tokenizer(prompt).input_ids + small_tokenizer(f" {answer}").input_ids
    stated = small_tokenizer(statement(prompt, answer)).input_ids
    assert stated[: len(alone)] == alone
    assert len(stated) - len(alone) <= 1


def test_packing_keeps_every_sentence_whole(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = tokenize(small_tokenizer, small_world.facts, (), small_world.fillers[:50], WEIGHTS)
    chosen = draw(
        examples, range(len(small_world.facts)), Recipe(fillers_per_fact=0.2), random.Random(0)
    )
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
    examples = tokenize(small_tokenizer, small_world.facts, (), (), WEIGHTS)
    rows = pack(examples, [0, 7, 14], 96)
    assert len(rows) == 1
    assert set(rows.spans[0].tolist()) == {OUTSIDE, 0, 1, 2}
    for order, number in enumerate((0, 7, 14)):
        start, length = int(examples.starts[number]), int(examples.lengths[number])
        ids = examples.tokens[start : start + length][examples.subject[start : start + length]]
        assert rows.tokens[0][rows.spans[0] == order].tolist() == ids.tolist()

"""Answers judged many at once are those of every answer judged alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from fleke_flwr.errors import RequestError
from fleke_flwr.evaluation.answers import Answer, Question, judge
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent

LoadTiny = Callable[..., EditableModel]

PEOPLE = ["Mira Tolen", "Jonas Feld", "Ada Karst", "Pavel Orrin", "Lena Voss"]
PROMPTS = [
    "Mira Tolen lives in",
    "The home town of Pavel Orrin is",
    "The quiet river was cold. The mother tongue of Lena Voss is spoken in",
    "Ada",
]
ANSWERS = ["Arlen", "Borvik", "New Elster", "a", "a place that nobody has heard of", "Zürich!"]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


def answer_ids(model: EditableModel, answer: str) -> list[int]:
    ids: list[int] = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    return ids


@torch.no_grad()
def judge_one(model: EditableModel, question: Question) -> Answer:
    """Run the whole network once for one answer and read every token of it."""
    prompt, answer = question
    start: list[int] = model.tokenizer(prompt)["input_ids"]
    tokens = answer_ids(model, answer)
    logits = model.model(torch.tensor([start + tokens])).logits[0].double()
    nll, right = 0.0, 0
    for offset, token in enumerate(tokens):
        row = logits[len(start) + offset - 1]
        nll -= float(row[token] - row.logsumexp(0)) / len(tokens)
        right += int(row.argmax()) == token
    return Answer(nll, right / len(tokens))


@torch.no_grad()
def top_answers(model: EditableModel) -> list[Question]:
    """Return prompts with the very words, of one or two tokens, that the model says next."""
    found = []
    for person, template in product(PEOPLE, ["{} lives in", "The home town of {} is", "{} was"]):
        prompt = template.format(person)
        ids: list[int] = model.tokenizer(prompt)["input_ids"]
        for length in (1, 2):
            ids = [*ids, int(model.model(torch.tensor([ids])).logits[0, -1].argmax())]
            text = str(model.tokenizer.decode(ids[-length:]))
            if text[0] == " " and answer_ids(model, text[1:]) == ids[-length:]:
                found.append((prompt, text[1:]))
    return found


def assert_equal(found: dict[Question, Answer], expected: dict[Question, Answer]) -> None:
    assert list(found) == list(expected)
    for question, answer in expected.items():
        assert found[question].nll == pytest.approx(answer.nll, rel=1e-9), question
        assert found[question].right == answer.right, question


@pytest.mark.parametrize("batch_tokens", [1, 40, 16384])
def test_equal_one_by_one(model: EditableModel, batch_tokens: int) -> None:
    questions = [(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]
    assert len({len(answer_ids(model, answer)) for answer in ANSWERS}) >= 4
    expected = {question: judge_one(model, question) for question in questions}
    assert_equal(judge(model, questions, batch_tokens, Silent()), expected)


def test_the_likeliest_answers_are_the_top_ones(model: EditableModel) -> None:
    questions = top_answers(model)
    assert questions
    assert all(answer.is_top for answer in judge(model, questions, 100, Silent()).values())
    longer = [(prompt, f"{answer} Zürich!") for prompt, answer in questions]
    found = judge(model, longer, 100, Silent())
    assert_equal(found, {q: judge_one(model, q) for q in longer})
    # Of these the first words are right and the others hardly: some share of the tokens.
    assert all(0 < answer.right <= 1 for answer in found.values())
    assert any(answer.right < 1 and not answer.is_top for answer in found.values())


def test_a_question_is_judged_once(model: EditableModel) -> None:
    question = (PROMPTS[0], ANSWERS[0])
    found = judge(model, [question, (PROMPTS[1], "a"), question], 100, Silent())
    assert list(found) == [question, (PROMPTS[1], "a")]
    assert_equal(found, {key: judge_one(model, key) for key in found})


def test_answers_of_one_token_share_a_forward_pass(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    base = model.model.base_model
    forward = base.forward

    def count(*args: object, **kwargs: object) -> object:
        rows.append(kwargs["input_ids"].shape[0])  # type: ignore[attr-defined]
        return forward(*args, **kwargs)

    monkeypatch.setattr(base, "forward", count)
    known = [str(model.tokenizer.decode([number])) for number in range(len(model.tokenizer))]
    words = [text[1:] for text in known if text[:1] == " " and text[1:].isalpha()]
    singles = [word for word in words if len(answer_ids(model, word)) == 1]
    assert len(singles) > 5
    judge(model, [(PROMPTS[0], answer) for answer in singles], 16384, Silent())
    assert rows == [1]


def test_no_question_has_no_answer(model: EditableModel) -> None:
    assert judge(model, [], 16384, Silent()) == {}


def test_an_answer_that_does_not_fit_behind_its_prompt_is_refused(model: EditableModel) -> None:
    ids: list[int] = model.tokenizer("a" * 500)["input_ids"]
    per_letter = (len(ids) - 1) / 500
    prompt = "a" * int((model.max_positions - 4) / per_letter)
    assert judge(model, [(prompt, "a")], 100, Silent())
    with pytest.raises(RequestError, match=r"has \d+ tokens, and .* can read 96; shorten"):
        judge(model, [(prompt, ANSWERS[4] * 3)], 100, Silent())


def test_a_model_without_numbers_finds_nothing_likely(model: EditableModel) -> None:
    broken = replace(model, model=copy.deepcopy(model.model))
    broken.projection(1).weight.data.fill_(math.nan)
    found = judge(broken, [(PROMPTS[0], answer) for answer in ANSWERS], 100, Silent())
    assert set(found.values()) == {Answer(math.inf, 0.0)}

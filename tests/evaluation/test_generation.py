"""Generated texts, their entropy and their likeness to references."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fleke_flwr.evaluation import generation
from fleke_flwr.evaluation.generation import (
    generate,
    judge_generations,
    ngram_entropy,
    reference_scores,
)
from fleke_flwr.models import EditableModel
from fleke_flwr.types import EditRequest, EvalCase

LoadTiny = Callable[..., EditableModel]

PROMPTS = ["Mira Tolen lives in", "Ada", "The home town of Pavel Orrin is", "Lena Voss lives in"]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


@pytest.mark.parametrize("text", ["", "word", "word " * 40, "!" * 9, "one two"])
def test_no_variety_has_no_entropy(text: str) -> None:
    found = ngram_entropy(text)
    assert found == 0.0
    assert math.copysign(1, found) == 1


def test_entropy_by_hand() -> None:
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    trigrams = 1.0
    assert ngram_entropy("a b a b") == pytest.approx(bigrams / 3 + 2 * trigrams / 3)


def test_different_words_have_the_most_entropy() -> None:
    words = " ".join(f"w{index}" for index in range(10))
    assert ngram_entropy(words) == pytest.approx(math.log2(9) / 3 + 2 * math.log2(8) / 3)


def test_marks_are_words_of_their_own() -> None:
    assert ngram_entropy("a,b") == ngram_entropy("a , b") == pytest.approx(1 / 3)


def test_reference_scores_by_hand() -> None:
    pairs = [
        ("quiet river bank", "quiet river bank"),
        ("something else entirely", "quiet river bank"),
        ("", "quiet river bank"),
    ]
    assert reference_scores(pairs) == pytest.approx([1.0, 0.0, 0.0])
    # All three words of the references are in every document: weights are equal.
    assert reference_scores([("river", "quiet river bank")]) == pytest.approx([1 / math.sqrt(3)])
    assert reference_scores([]) == []


def test_rare_words_of_the_references_weigh_more() -> None:
    references = ["town river", "town mill"]
    common, rare = (
        reference_scores([(word, references[0]), ("", references[1])])[0]
        for word in ("town", "river")
    )
    weight = math.log(3 / 2) + 1
    assert common == pytest.approx(1 / math.hypot(1, weight))
    assert rare == pytest.approx(weight / math.hypot(1, weight))


@pytest.mark.parametrize("references", ["", "a b", "!"])
def test_references_without_words_score_zero(references: str) -> None:
    assert reference_scores([("some text", references)]) == [0.0]


def test_equal_seeds_give_equal_texts(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_TOTAL_TOKENS", 30)
    first = generate(model, PROMPTS, 16384, seed=3)
    assert generate(model, PROMPTS, 16384, seed=3) == first
    assert generate(model, PROMPTS, 16384, seed=4) != first
    decoded = [model.tokenizer.decode(model.tokenizer(p)["input_ids"][1:]) for p in PROMPTS]
    assert all(prompt.strip() in text for prompt, text in zip(decoded, first, strict=True))


def test_no_prompt_has_no_text(model: EditableModel) -> None:
    assert generate(model, [], 16384, seed=0) == []


@torch.no_grad()
def greedy(model: EditableModel, prompt: str, length: int) -> str:
    """Append the most likely token up to a length, without any cache."""
    ids: list[int] = model.tokenizer(prompt)["input_ids"]
    while len(ids) < length:
        ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
    text = str(model.tokenizer.decode(ids, skip_special_tokens=True))
    return generation.normalize("NFKD", text).replace("\n\n", " ")


def test_the_only_choice_is_the_most_likely_one(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_TOP_K", 1)
    monkeypatch.setattr(generation, "_TOTAL_TOKENS", 30)
    expected = [greedy(model, prompt, 30) for prompt in PROMPTS]
    for batch_tokens in (1, 16384):
        assert generate(model, PROMPTS, batch_tokens, seed=0) == expected


def test_a_text_ends_where_the_model_does(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_TOP_K", 1)
    assert generate(model, PROMPTS[:1], 16384, seed=0) == [greedy(model, PROMPTS[0], 96)]


def case_of(number: int, generations: tuple[str, ...], references: tuple[str, ...]) -> EvalCase:
    request = EditRequest(str(number), "{} lives in", "Ada", "Arlen")
    return EvalCase(request, generations=generations, references=references)


def test_records_are_judged_one_by_one(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["one two three", "same same same same", "alpha beta", "unseen"]
    monkeypatch.setattr(generation, "generate", lambda *_: texts)
    cases = [
        case_of(0, ("p", "q"), ("one two", "three same")),
        case_of(1, (), ("gamma",)),
        case_of(2, ("r",), ("alpha", "beta")),
        case_of(3, ("s",), ()),
    ]
    found = judge_generations(model, cases, 100, 0)
    assert found["ngram_entropy"] == pytest.approx(
        [(ngram_entropy(texts[0]) + 0) / 2, ngram_entropy("alpha beta"), 0.0]
    )
    whole = reference_scores(
        [(f"{texts[0]} {texts[1]}", "one two three same"), (texts[2], "alpha beta")]
    )
    assert found["reference_score"] == whole
    assert whole[1] == pytest.approx(1.0)
    assert 0 < whole[0] < 1


def test_records_without_open_prompts_are_not_judged(model: EditableModel) -> None:
    assert judge_generations(model, [case_of(0, (), ("text",))], 100, 0) == {}
    only = judge_generations(model, [case_of(0, ("Ada",), ())], 100, 0)
    assert set(only) == {"ngram_entropy"}

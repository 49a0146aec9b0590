"""What is made of a record's generated texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.errors import DataError
from fleke_flwr.evaluation import generation
from fleke_flwr.evaluation.fluency import ngram_entropy
from fleke_flwr.evaluation.generation import judge_generations
from fleke_flwr.evaluation.references import fitted, reference_scores
from fleke_flwr.evaluation.sampling import Draft
from fleke_flwr.models import EditableModel
from fleke_flwr.types import EditRequest, EvalCase

CONFIG = EvaluationConfig()
TEXTS = {
    ("p", 0): "one two three",
    ("q", 0): "same same same same",
    ("q", 1): "two two",
    ("r", 0): "alpha beta",
    ("s", 0): "unseen",
}


@pytest.fixture
def model(load_tiny: Callable[..., EditableModel], tiny_gpt2: Path) -> EditableModel:
    return load_tiny(tiny_gpt2)


def case_of(number: int, generations: tuple[str, ...], references: tuple[str, ...]) -> EvalCase:
    request = EditRequest(str(number), "{} lives in", "Ada", "Arlen")
    return EvalCase(request, generations=generations, references=references)


def four_cases() -> list[EvalCase]:
    return [
        case_of(0, ("p", "q", "q"), ("one two", "three same")),
        case_of(1, (), ("gamma",)),
        case_of(2, ("r",), ("alpha", "beta")),
        case_of(3, ("s",), ()),
    ]


@pytest.fixture
def _written(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: EditableModel, drafts: Sequence[Draft], *__: object) -> list[str]:
        return [TEXTS[draft] for draft in drafts]

    monkeypatch.setattr(generation, "generate", write)


@pytest.mark.usefixtures("_written")
def test_records_are_judged_one_by_one(model: EditableModel) -> None:
    found = judge_generations(replace(model, directory=None), four_cases(), CONFIG, 0)
    pairs = [("one two three same same same same two two", "one two three same")]
    pairs.append(("alpha beta", "alpha beta"))
    scores = reference_scores(pairs)
    assert scores[1] == pytest.approx(1.0)
    assert 0 < scores[0] < 1
    assert found == [
        {"ngram_entropy": ngram_entropy("one two three") / 3, "reference_score": scores[0]},
        {},
        {"ngram_entropy": ngram_entropy("alpha beta"), "reference_score": scores[1]},
        {"ngram_entropy": 0.0},
    ]


@pytest.mark.usefixtures("_written")
def test_a_given_file_weighs_the_words(model: EditableModel, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n\none two\n\none same", encoding="utf-8")
    found = judge_generations(model, four_cases(), EvaluationConfig(idf=str(path)), 0)
    text, references = "one two three same same same same two two", "one two three same"
    expected = reference_scores([(text, references)], fitted(str(path)))
    assert found[0]["reference_score"] == pytest.approx(expected[0])
    assert found[0]["reference_score"] != pytest.approx(
        judge_generations(model, four_cases(), CONFIG, 0)[0]["reference_score"]
    )
    # None of its words is in the file.
    assert found[2]["reference_score"] == 0.0


def test_a_missing_file_is_refused_before_anything_is_generated(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(generation, "generate")
    with pytest.raises(DataError, match="no such file"):
        judge_generations(model, four_cases(), EvaluationConfig(idf="/none/texts.txt"), 0)


def test_a_record_is_judged_alike_in_any_company(model: EditableModel) -> None:
    cases = [case_of(0, ("Ada lives in", "Ada was", "Ada was"), ()), case_of(1, ("Lena",), ())]
    together = judge_generations(model, cases, CONFIG, 0)
    for case, values in zip(cases, together, strict=True):
        assert judge_generations(model, [case], CONFIG, 0) == [values]


@pytest.mark.usefixtures("_written")
def test_scores_of_a_record_do_not_depend_on_the_others(
    model: EditableModel, tmp_path: Path
) -> None:
    (tmp_path / "corpus.txt").write_text("one alpha\ntwo beta\nthree same\n", encoding="utf-8")
    own = replace(model, directory=tmp_path)
    together = judge_generations(own, four_cases(), CONFIG, 0)
    alone = judge_generations(own, four_cases()[:1], CONFIG, 0)
    assert alone[0] == together[0]
    assert 0 < alone[0]["reference_score"] < 1

"""The measures of an edit, from single answers to the sums over clients."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.evaluation import quality
from fleke_flwr.evaluation.answers import Answer, Question
from fleke_flwr.evaluation.quality import METRICS, Quality, evaluate, summarize
from fleke_flwr.models import EditableModel
from fleke_flwr.types import EditRequest, EvalCase, Probe

LoadTiny = Callable[..., EditableModel]

BARE = {"efficacy_top1", "efficacy_tokens"}
PAIRS = {"efficacy", "efficacy_magnitude"}


def a_case(subject: str = "Mira Tolen", target: str = "Arlen", original: str = "Dorum") -> EvalCase:
    return EvalCase(
        EditRequest(subject, "{} lives in", subject, target, original),
        paraphrases=(f"The home town of {subject} is", f"The baker {subject} is from"),
        neighbors=("Jonas Feld lives in", "Tomas Ullmer lives in", "Lena Voss lives in"),
        same_subject=(Probe(f"{subject} works as a", "baker"), Probe(f"{subject} was", "cold")),
        generations=(f"{subject} was",),
        references=("The town of Arlen is quiet.",),
    )


def some_cases() -> list[EvalCase]:
    return [
        a_case(),
        a_case("Ada Karst", "New Elster", "Borvik"),
        a_case("Pavel Orrin", "Castra", "New Elster"),
        EvalCase(EditRequest("4", "{} lives in", "Lena Voss", "Borvik")),
        a_case("Tomas Ullmer", "Borvik", "Arlen"),
    ]


@pytest.fixture
def model(load_tiny: LoadTiny, tiny_llama: Path) -> EditableModel:
    return load_tiny(tiny_llama)


@pytest.fixture
def measure(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Quality]:
    """Return a function that measures a case of which all answers are given by hand."""

    def run(
        case: EvalCase, likelihood: dict[Question, float], top: Iterable[Question] = ()
    ) -> Quality:
        def judge(
            _: EditableModel, questions: Iterable[Question], *__: object
        ) -> dict[Question, Answer]:
            return {
                question: Answer(-math.log(likelihood[question]), float(question in set(top)))
                for question in questions
            }

        monkeypatch.setattr(quality, "judge", judge)
        return evaluate(model, [case], EvaluationConfig(), 0)

    return run


def test_every_measure_by_hand(measure: Callable[..., Quality]) -> None:
    case = a_case()
    edited = case.request.text
    one, two = case.paraphrases
    first, second, third = case.neighbors
    likelihood = {
        (edited, "Arlen"): 0.7, (edited, "Dorum"): 0.1,
        (one, "Arlen"): 0.4, (one, "Dorum"): 0.2, (two, "Arlen"): 0.1, (two, "Dorum"): 0.3,
        (first, "Dorum"): 0.5, (first, "Arlen"): 0.2,
        (second, "Dorum"): 0.3, (second, "Arlen"): 0.2,
        (third, "Dorum"): 0.1, (third, "Arlen"): 0.6,
        (case.same_subject[0].prompt, "baker"): 0.9, (case.same_subject[1].prompt, "cold"): 0.1,
    }  # fmt: skip
    top = [(edited, "Arlen"), (one, "Arlen"), (third, "Arlen"), (first, "Dorum")]
    top.append((case.same_subject[0].prompt, "baker"))
    (values,) = measure(case, likelihood, top).records
    assert values == pytest.approx(
        {
            "efficacy": 1, "paraphrase": 1 / 2, "neighborhood": 2 / 3,
            "efficacy_top1": 1, "paraphrase_top1": 1 / 2, "neighborhood_top1": 1 / 3,
            "efficacy_tokens": 1, "paraphrase_tokens": 1 / 2, "neighborhood_tokens": 1 / 3,
            "efficacy_magnitude": 0.6, "paraphrase_magnitude": 0.0,
            "neighborhood_magnitude": (0.3 + 0.1 - 0.5) / 3,
            "same_subject": 1 / 2,
        }
    )  # fmt: skip


def test_a_tie_is_a_failure_both_ways(model: EditableModel) -> None:
    flat = replace(model, model=copy.deepcopy(model.model))
    flat.model.get_output_embeddings().weight.data.zero_()
    (found,) = evaluate(flat, [a_case(target="b", original="c")], EvaluationConfig(), 0).records
    for metric in ("efficacy", "paraphrase", "neighborhood"):
        assert found[metric] == found[f"{metric}_magnitude"] == 0.0


def test_without_original_only_first_choices_are_measured(measure: Callable[..., Quality]) -> None:
    case = replace(a_case(original=""), same_subject=())
    likelihood = {
        (prompt, "Arlen"): 0.5 for prompt in (case.request.text, *case.paraphrases, *case.neighbors)
    }
    kinds = ("efficacy_top1", "efficacy_tokens", "paraphrase_top1", "paraphrase_tokens")
    assert measure(case, likelihood).records == [dict.fromkeys(kinds, 0.0)]


def test_a_record_without_probes_counts_for_its_edit_only(model: EditableModel) -> None:
    bare = EvalCase(EditRequest("1", "{} lives in", "Ada Karst", "Arlen", "Dorum"))
    found = evaluate(model, [bare], EvaluationConfig(), 0)
    assert set(found.records[0]) == BARE | PAIRS
    known = evaluate(model, some_cases(), EvaluationConfig(), 0).sums()
    assert known["efficacy_top1"][2] == 5
    assert known["efficacy"][2] == known["neighborhood"][2] == known["same_subject"][2] == 4


def test_no_record_has_no_measure(model: EditableModel) -> None:
    found = evaluate(model, [], EvaluationConfig(generate_every=1), 0)
    assert found.sums() == {}
    summary = summarize(found.sums())
    assert set(summary.values()) == {None}
    assert {
        "score",
        "score_top1",
        "score_tokens",
        "score_ci95",
        "score_tokens_ci95",
        *METRICS,
    } <= set(summary)


def test_the_sums_of_two_halves_are_those_of_the_whole(model: EditableModel) -> None:
    cases = some_cases()
    config = EvaluationConfig(batch_tokens=64)
    whole = evaluate(model, cases, config, 0).sums()
    halves = [evaluate(model, part, config, 0).sums() for part in (cases[:2], cases[2:])]
    assert set(whole) == set(halves[0]) | set(halves[1])
    for metric, expected in whole.items():
        found = [sum(column) for column in zip(*(half[metric] for half in halves), strict=True)]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), metric


def test_sums_of_some_records_are_those_of_judging_them_alone(model: EditableModel) -> None:
    cases = some_cases()
    quality = evaluate(model, cases, EvaluationConfig(), 0)
    assert len(quality.records) == len(cases)
    for which in ([0, 3], [4], [], range(5)):
        chosen = [cases[index] for index in which]
        expected = evaluate(model, chosen, EvaluationConfig(), 0).sums()
        found = quality.sums(which)
        assert set(found) == set(expected)
        for metric, sums in expected.items():
            assert found[metric] == pytest.approx(sums, rel=1e-9, abs=1e-12), metric
    assert quality.sums() == quality.sums(range(5))
    with pytest.raises(IndexError):
        quality.sums([5])


def test_the_batch_size_changes_nothing(model: EditableModel) -> None:
    small, large = (
        evaluate(model, some_cases(), EvaluationConfig(batch_tokens=size), 0).records
        for size in (1, 16384)
    )
    for one, other in zip(small, large, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_every_nth_record_is_written_about(model: EditableModel, every: int) -> None:
    cases = some_cases()
    plain = evaluate(model, cases, EvaluationConfig(), 0).records
    written = {"ngram_entropy", "reference_score"}
    assert not any(written & set(record) for record in plain)
    full = evaluate(model, cases, EvaluationConfig(generate_every=every), 0).records
    for index, (case, record) in enumerate(zip(cases, full, strict=True)):
        asked = index % every == 0 and bool(case.generations)
        assert written & set(record) == (written if asked else set())
        assert plain[index] == {name: record[name] for name in plain[index]}


def test_zsre_records_give_the_score_by_tokens(model: EditableModel) -> None:
    case = EvalCase(
        EditRequest("1", "Where does {} live?", "Ada Karst", "New Elster"),
        paraphrases=("In what place does Ada Karst live?",),
        locality=(Probe("nq question: what was cold?", "the quiet river"),),
    )
    (record,) = evaluate(model, [case], EvaluationConfig(), 0).records
    kinds = ("efficacy", "paraphrase", "neighborhood")
    assert set(record) == {f"{kind}_{form}" for kind in kinds for form in ("top1", "tokens")}
    start: list[int] = model.tokenizer(case.locality[0].prompt)["input_ids"]
    tokens = model.tokenizer(" the quiet river", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        tops = model.model(torch.tensor([start + tokens])).logits[0, len(start) - 1 : -1].argmax(1)
    right = [float(token == top) for token, top in zip(tokens, tops.tolist(), strict=True)]
    assert record["neighborhood_tokens"] == statistics.fmean(right)


def test_means_and_intervals_by_hand() -> None:
    values = [1.0, 0.5, 0.0, 1.0, 0.75]
    summary = summarize(Quality([{"efficacy": value} for value in values]).sums())
    assert summary["efficacy"] == pytest.approx(65.0)
    expected = 100 * 1.96 * statistics.pstdev(values) / math.sqrt(5)
    assert summary["efficacy_ci95"] == pytest.approx(expected)


def test_equal_values_have_no_width() -> None:
    summary = summarize(Quality([{"efficacy": 0.1}] * 3).sums())
    assert summary["efficacy_ci95"] == pytest.approx(0.0, abs=1e-6)


def of(efficacy: float, paraphrase: float, neighborhood: float) -> dict[str, float]:
    return {"efficacy": efficacy, "paraphrase": paraphrase, "neighborhood": neighborhood}


def test_the_score_is_the_harmonic_mean() -> None:
    summary = summarize(Quality([of(1.0, 0.5, 0.25)]).sums())
    assert summary["score"] == pytest.approx(100 * 3 / (1 + 2 + 4))
    assert summary["score_top1"] is summary["score_tokens"] is None
    for form in ("top1", "tokens"):
        values = {f"{name}_{form}": value for name, value in of(0.5, 0.5, 0.25).items()}
        summary = summarize(Quality([values]).sums())
        assert summary[f"score_{form}"] == pytest.approx(100 * 3 / (2 + 2 + 4))
        assert summary[f"score_{form}_ci95"] == 0.0
        assert summary["score"] is None


@pytest.mark.parametrize("parts", [(0.0, 1.0, 1.0), (1.0, 0.0, 0.5), (0.0, 0.0, 0.0)])
def test_a_zero_component_makes_the_score_zero(parts: tuple[float, float, float]) -> None:
    summary = summarize(Quality([of(*parts)]).sums())
    assert summary["score"] == 0.0
    assert summary["score_ci95"] is None


@pytest.mark.parametrize("missing", ["efficacy", "paraphrase", "neighborhood"])
def test_a_missing_component_leaves_no_score(missing: str) -> None:
    values = of(1.0, 1.0, 1.0)
    del values[missing]
    summary = summarize(Quality([values]).sums())
    assert summary["score"] is summary["score_ci95"] is None
    assert summary[missing] is summary[f"{missing}_ci95"] is None


def test_the_interval_of_the_score_follows_from_its_slopes() -> None:
    values = of(0, 0, 0)
    summary = summarize(Quality([of(1.0, 0.5, 0.75), of(0.5, 0.25, 1.0)]).sums())
    means = torch.tensor(
        [summary[name] for name in values], dtype=torch.float64, requires_grad=True
    )
    (3 / (1 / means).sum()).backward()
    widths = torch.tensor([summary[f"{name}_ci95"] for name in values], dtype=torch.float64)
    assert means.grad is not None
    expected = float(torch.linalg.vector_norm(means.grad * widths))
    assert summary["score_ci95"] == pytest.approx(expected)


def test_the_protocol_of_a_real_model_by_hand(model: EditableModel) -> None:
    """Judge one record prompt by prompt with the definitions written out."""
    case = a_case(target="New Elster", original="a")

    def nll(prompt: str, answer: str) -> float:
        start = model.tokenizer(prompt)["input_ids"]
        tokens = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logs = model.model(torch.tensor([start + tokens])).logits[0].log_softmax(1)
        rows = logs[len(start) - 1 : -1]
        return -float(rows.gather(1, torch.tensor(tokens)[:, None]).mean())

    (found,) = evaluate(model, [case], EvaluationConfig(), 0).records
    new, old = ([nll(prompt, o) for prompt in case.paraphrases] for o in ("New Elster", "a"))
    success = [float(a < b) for a, b in zip(new, old, strict=True)]
    gain = [math.exp(-a) - math.exp(-b) for a, b in zip(new, old, strict=True)]
    assert found["paraphrase"] == statistics.fmean(success)
    assert found["paraphrase_magnitude"] == pytest.approx(statistics.fmean(gain), rel=1e-8)
    kept = [nll(prompt, "a") < nll(prompt, "New Elster") for prompt in case.neighbors]
    assert found["neighborhood"] == statistics.fmean(map(float, kept))

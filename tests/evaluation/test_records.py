"""Which questions a record asks and which metrics their answers allow."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fleke_flwr.evaluation.answers import Answer
from fleke_flwr.evaluation.records import judge_case, questions
from fleke_flwr.types import EditRequest, EvalCase, Probe

REQUEST = EditRequest("1", "{} lives in", "Ada", "New Elster", "Dorum")
LOCALITY = (Probe("nq question: who wrote it?", "a quiet man"), Probe("nq question: when?", "now"))
CASE = EvalCase(
    REQUEST,
    paraphrases=("Ada is from", "The home of Ada is"),
    neighbors=("Jonas lives in", "Lena lives in"),
    same_subject=(Probe("Ada was", "cold"),),
    locality=LOCALITY,
)


def answers_of(case: EvalCase, right: float = 0.5) -> dict[tuple[str, str], Answer]:
    return {question: Answer(1.0, right) for question in questions(case)}


def test_every_question_is_asked() -> None:
    asked = list(questions(CASE))
    prompts = (REQUEST.text, *CASE.paraphrases, *CASE.neighbors)
    expected = {(prompt, answer) for prompt in prompts for answer in ("New Elster", "Dorum")}
    expected |= {(probe.prompt, probe.answer) for probe in (*LOCALITY, *CASE.same_subject)}
    assert set(asked) == expected


def test_token_metrics_by_hand() -> None:
    answers = answers_of(CASE)
    answers[REQUEST.text, "New Elster"] = Answer(0.1, 1.0)
    answers["Ada is from", "New Elster"] = Answer(0.1, 0.5)
    answers["The home of Ada is", "New Elster"] = Answer(0.1, 0.0)
    answers["Jonas lives in", "Dorum"] = Answer(0.1, 1.0)
    answers["Lena lives in", "Dorum"] = Answer(0.1, 0.0)
    answers[LOCALITY[0].prompt, LOCALITY[0].answer] = Answer(2.0, 1 / 3)
    answers[LOCALITY[1].prompt, LOCALITY[1].answer] = Answer(2.0, 1.0)
    values = judge_case(CASE, answers)
    assert values["efficacy_tokens"] == values["efficacy_top1"] == 1.0
    assert values["paraphrase_tokens"] == 0.25
    assert values["paraphrase_top1"] == 0.0
    # Tokens are zsRE's measure, of locality; first choices CounterFact's, of neighbours.
    assert values["neighborhood_tokens"] == pytest.approx((1 / 3 + 1) / 2)
    assert values["neighborhood_top1"] == 0.5
    assert values["same_subject"] == 0.0


@pytest.mark.parametrize("missing", ["locality", "neighbors"])
def test_locality_and_neighbors_stand_in_for_one_another(missing: str) -> None:
    case = replace(CASE, **{missing: ()})
    answers = answers_of(case, right=0.0)
    kept = LOCALITY[0] if missing == "neighbors" else Probe(CASE.neighbors[0], "Dorum")
    answers[kept.prompt, kept.answer] = Answer(0.1, 1.0)
    values = judge_case(case, answers)
    assert values["neighborhood_tokens"] == values["neighborhood_top1"] == 0.5
    assert ("neighborhood" in values) is (missing == "locality")


def test_a_record_without_original_has_token_and_top_forms() -> None:
    case = replace(CASE, request=replace(REQUEST, original=""), neighbors=(), same_subject=())
    values = judge_case(case, answers_of(case))
    kinds = ("efficacy", "paraphrase", "neighborhood")
    assert values == {
        **{f"{kind}_top1": 0.0 for kind in kinds},
        **{f"{kind}_tokens": 0.5 for kind in kinds},
    }
    # Neighbours whose answer is not known tell nothing, and none is asked of them.
    assert judge_case(replace(case, neighbors=CASE.neighbors), answers_of(case)) == values


def test_a_tie_is_a_failure_in_all_comparisons() -> None:
    values = judge_case(CASE, answers_of(CASE))
    for kind in ("efficacy", "paraphrase", "neighborhood"):
        assert values[kind] == values[f"{kind}_magnitude"] == 0.0


def test_two_impossible_answers_are_a_tie() -> None:
    answers = {question: Answer(math.inf, 0.0) for question in questions(CASE)}
    values = judge_case(CASE, answers)
    assert values["efficacy"] == values["neighborhood"] == values["efficacy_magnitude"] == 0.0

"""A question of zsRE becomes an edit, or a message that says which field is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from fleke_flwr.config import DataConfig
from fleke_flwr.data.schema import protocol_of
from fleke_flwr.data.zsre import read_zsre
from fleke_flwr.errors import RequestError
from fleke_flwr.types import EvalCase, Probe


def question(**changes: Any) -> dict[str, Any]:
    return {
        "subject": "Platypatrobus",
        "src": "The genus Platypatrobus is a part of what family?",
        "pred": "Carabidae",
        "rephrase": "Platypatrobus is part of the family?",
        "alt": " Arctiinae",
        "answers": ["Carabidae ", "ground beetle"],
        "loc": "nq question: who plays penny",
        "loc_ans": "Kaley Cuoco",
        "cond": "Carabidae >> Arctiinae",
    } | changes


def read(record: dict[str, Any], number: int = 0, **settings: Any) -> EvalCase:
    case = read_zsre(record, number, DataConfig(**settings))
    assert isinstance(case, EvalCase)
    return case


def test_every_field_has_its_place() -> None:
    case = read(question(case_id=9, owner="museum"), 4)
    request = case.request
    assert request.case_id == "9"
    assert request.prompt == "The genus {} is a part of what family?"
    assert request.text == question()["src"]
    assert (request.target, request.original) == ("Arctiinae", "Carabidae")
    assert request.relation == ""
    assert case.paraphrases == ("Platypatrobus is part of the family?",)
    assert case.locality == (Probe("nq question: who plays penny?", "Kaley Cuoco"),)
    assert (case.neighbors, case.same_subject, case.generations) == ((), (), ())
    assert case.owner == "museum"


def test_the_place_in_the_file_names_a_record() -> None:
    assert read(question(), 4).request.case_id == "4"


def test_the_true_answer_is_the_target_as_in_memit() -> None:
    request = read(question(alt=""), zsre_target="answers").request
    assert (request.target, request.original) == ("Carabidae", "")


def test_only_the_first_place_of_the_subject_becomes_the_slot() -> None:
    source = "Is Platypatrobus a beetle, or is Platypatrobus a moth?"
    request = read(question(src=source)).request
    assert request.prompt == "Is {} a beetle, or is Platypatrobus a moth?"
    assert request.text == source


@pytest.mark.parametrize(
    ("alt", "reason"),
    [
        ("", "empty alternative answer"),
        ("  ", "empty alternative answer"),
        ("Carabidae", "alternative answer is a true one"),
        (" ground beetle ", "alternative answer is a true one"),
    ],
)
def test_no_other_answer_is_a_reason_to_leave_out(alt: str, reason: str) -> None:
    assert read_zsre(question(alt=alt), 0, DataConfig()) == reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "Carabus"}, "question 'The genus .* does not hold its subject 'Carabus'"),
        ({"subject": " "}, "'subject' is ' '; a text is needed"),
        ({"src": 7}, "'src' is 7; a text is needed"),
        ({"src": None}, "'src' is None; a text is needed"),
        ({"src": "What of {} and Platypatrobus?"}, "found 2 slots"),
        ({"answers": []}, "'answers' is empty"),
        ({"answers": "Carabidae"}, "'answers' is 'Carabidae'; a list of texts is needed"),
        ({"answers": [""]}, "'answers' is .*none empty"),
        ({"alt": None}, "'alt' is None; a text is needed"),
        ({"alt": ["Arctiinae"]}, "'alt' is .*; a text is needed"),
        ({"rephrase": ""}, "'rephrase' is ''; a text is needed, not an empty one"),
        ({"loc": None}, "'loc' is None"),
        ({"loc_ans": " "}, "'loc_ans' is ' '"),
        ({"owner": 1.5}, "'owner' is 1.5"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(question(**changes))


@pytest.mark.parametrize("field", ["src", "alt", "answers", "rephrase", "loc", "loc_ans"])
def test_a_record_that_lacks_one_field_is_still_a_question(field: str) -> None:
    broken = {key: value for key, value in question().items() if key != field}
    assert protocol_of(broken) == "zsre"
    with pytest.raises(RequestError, match=f"'{field}'"):
        read(broken)

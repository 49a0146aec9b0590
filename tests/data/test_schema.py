"""One JSON object becomes one case, or a message that says which field is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from fleke_flwr.config import DataConfig
from fleke_flwr.data.schema import read_record
from fleke_flwr.errors import RequestError
from fleke_flwr.types import EvalCase, Probe


def counterfact(**changes: Any) -> dict[str, Any]:
    rewrite = {
        "prompt": "The official religion of {} is",
        "relation_id": "P140",
        "target_new": {"str": " Islam ", "id": "Q432"},
        "target_true": {"str": "Christianity", "id": "Q5043"},
        "subject": "Edwin of Northumbria",
    }
    return {
        "case_id": 1,
        "pararel_idx": 19501,
        "requested_rewrite": rewrite | changes,
        "paraphrase_prompts": ["Edwin follows the religion of"],
        "neighborhood_prompts": ["The official religion of Paul is", "Paul follows"],
        "attribute_prompts": ["Mos Def follows"],
        "generation_prompts": ["Edwin was", "Edwin said"],
        "same_subject": [{"prompt": "Edwin was born in", "target": "Deira"}],
        "references": ["Mos Def prays in a mosque."],
    }


def user(**changes: Any) -> dict[str, Any]:
    return {"subject": "Ada", "prompt": "{} lives in", "target": "Arlen"} | changes


def read(record: dict[str, Any], number: int = 0, owner: str = "owner") -> EvalCase:
    case = read_record(record, number, DataConfig(owner=owner))
    assert isinstance(case, EvalCase)
    return case


def test_every_field_of_counterfact_has_its_place() -> None:
    case = read(counterfact(), 5)
    assert case.request.case_id == "1"
    assert case.request.target == "Islam"
    assert case.request.original == "Christianity"
    assert case.request.relation == "P140"
    assert case.paraphrases == ("Edwin follows the religion of",)
    assert case.neighbors == ("The official religion of Paul is", "Paul follows")
    assert case.attributes == ("Mos Def follows",)
    assert case.generations == ("Edwin was", "Edwin said")
    assert case.same_subject == (Probe("Edwin was born in", "Deira"),)
    assert case.references == ("Mos Def prays in a mosque.",)


@pytest.mark.parametrize("nothing", [None, {}, {"str": None}, {"str": ""}])
def test_an_unknown_true_object_is_empty(nothing: object) -> None:
    assert read(counterfact(target_true=nothing)).request.original == ""


@pytest.mark.parametrize("strange", ["Christianity", ["Christianity"], {"str": 7}])
def test_a_true_object_of_the_wrong_type_is_refused(strange: object) -> None:
    with pytest.raises(RequestError, match="is needed"):
        read(counterfact(target_true=strange))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_new": None}, "'target_new' is None; an object is needed"),
        ({"target_new": {"str": None}}, "'str' is None; a text is needed"),
        ({"subject": ""}, "subject is empty"),
        ({"prompt": "{} and {}"}, "found 2 slots"),
    ],
)
def test_a_wrong_rewrite_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(counterfact(**changes))


def test_a_full_prompt_gets_its_slot() -> None:
    request = read(user(prompt="In Arlen, Ada is")).request
    assert (request.prompt, request.text) == ("In Arlen, {} is", "In Arlen, Ada is")


@pytest.mark.parametrize("prompt", ["Ada knows Ada from", "Lena lives in", "ada lives in"])
def test_a_prompt_without_a_clear_subject_is_shown(prompt: str) -> None:
    with pytest.raises(RequestError, match=f"prompt '{prompt}' holds subject 'Ada' . times"):
        read(user(prompt=prompt))


@pytest.mark.parametrize("key", ["subject", "prompt", "target"])
def test_a_missing_field_is_named(key: str) -> None:
    with pytest.raises(RequestError, match=f"'{key}' is None; a text is needed"):
        read({name: value for name, value in user().items() if name != key})


@pytest.mark.parametrize("key", ["paraphrases", "neighbors", "generations", "references"])
@pytest.mark.parametrize("wrong", ["one text", [1], {"a": "b"}, "", 0, [""], [" "]])
def test_a_list_of_texts_is_a_list_of_texts(key: str, wrong: object) -> None:
    with pytest.raises(RequestError, match=f"'{key}' is .*; a list of texts is needed"):
        read(user(**{key: wrong}))


@pytest.mark.parametrize("key", ["paraphrases", "neighbors", "same_subject", "references"])
def test_null_and_an_empty_list_are_no_texts(key: str) -> None:
    for nothing in (None, []):
        assert getattr(read(user(**{key: nothing})), key) == ()


@pytest.mark.parametrize(
    "wrong", ["text", ["text"], [{"prompt": "Ada was"}], [{"prompt": "", "target": "x"}]]
)
def test_other_facts_need_prompt_and_target(wrong: object) -> None:
    with pytest.raises(RequestError, match=r"'same_subject' is .* is needed"):
        read(user(same_subject=wrong))


def test_an_original_that_is_no_text_is_refused() -> None:
    with pytest.raises(RequestError, match="'original' is 7; a text is needed"):
        read(user(original=7))


def test_names_may_be_numbers_and_zero_counts() -> None:
    request = read(user(case_id=0, relation=0), 9).request
    assert (request.case_id, request.relation) == ("0", "0")
    request = read(user(case_id=None, relation=None), 9).request
    assert (request.case_id, request.relation) == ("9", "")


def test_the_owner_stands_at_the_top_of_a_counterfact_record() -> None:
    record = counterfact() | {"hospital": "north", "owner": "somebody"}
    assert read(record, owner="hospital").owner == "north"
    assert read(record, owner="site").owner == ""


@pytest.mark.parametrize("key", ["case_id", "relation", "owner"])
@pytest.mark.parametrize("wrong", [True, 1.5, ["a"], {"a": "b"}])
def test_a_name_is_a_text_or_a_whole_number(key: str, wrong: object) -> None:
    with pytest.raises(RequestError, match=f"'{key}' is .*; a text or a whole number is needed"):
        read(user(**{key: wrong}))


def test_a_user_may_name_a_rival() -> None:
    assert read(user(rival=" Borvik ")).rival == "Borvik"
    assert read(user()).rival == read(user(rival=None)).rival == ""


@pytest.mark.parametrize(
    ("rival", "message"),
    [(7, "'rival' is 7; a text is needed"), ("arlen", "'rival' is 'arlen', which is the target")],
)
def test_a_rival_is_another_text(rival: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(user(rival=rival))

"""Tags are equal for equal edits and say nothing without the key."""

from __future__ import annotations

from dataclasses import replace

from fleke_flwr.tags import edit_tag, question_of, question_tag
from fleke_flwr.types import EditRequest

REQUEST = EditRequest("1", "{} works as a", "Ada Lovelace", "miner", "poet", "r1")


def test_a_question_is_named_by_subject_and_relation() -> None:
    other_words = replace(REQUEST, case_id="2", prompt="The job of {} is", target="baker")
    assert question_tag(REQUEST, "key") == question_tag(other_words, "key")
    assert edit_tag(REQUEST, "key") != edit_tag(other_words, "key")
    assert question_of(edit_tag(REQUEST, "key")) == question_tag(REQUEST, "key")


def test_without_a_relation_the_prompt_names_it() -> None:
    unknown = replace(REQUEST, relation="")
    assert question_tag(unknown, "") != question_tag(replace(unknown, prompt="{} is"), "")


def test_spelling_of_blanks_and_capitals_does_not_matter() -> None:
    shouted = replace(REQUEST, subject="ADA  lovelace", target=" Miner")
    assert edit_tag(REQUEST, "key") == edit_tag(shouted, "key")


def test_another_key_gives_another_tag() -> None:
    assert edit_tag(REQUEST, "ours") != edit_tag(REQUEST, "theirs")


def test_subject_and_relation_cannot_be_mistaken_for_each_other() -> None:
    first = replace(REQUEST, subject="a", relation="b c")
    second = replace(REQUEST, subject="a b", relation="c")
    assert question_tag(first, "") != question_tag(second, "")

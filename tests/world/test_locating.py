"""Subjects are found in whole prompts by templates that the records themselves supply."""

from __future__ import annotations

from typing import Any

from fleke_flwr.world.locating import Templates, learn_templates, relation_of


def record(prompt: str, subject: str, **fields: Any) -> dict[str, Any]:
    return {
        "case_id": subject,
        "requested_rewrite": {
            "prompt": prompt,
            "subject": subject,
            "relation_id": "P1",
            "target_true": {"str": "Rome"},
            "target_new": {"str": "Oslo"},
        },
    } | fields


def test_longest_template_with_a_plausible_name_wins() -> None:
    templates = Templates()
    templates.of_relation["P1"] |= {"{} lives in", "{} in", "The poet {} lives in", "{} of"}
    assert templates.locate("P1", "The poet Ada lives in") == ("The poet {} lives in", "Ada")
    assert templates.locate("P1", "Ada lives in") == ("{} lives in", "Ada")
    assert templates.locate("P1", "Ada was in") is None  # "Ada was" is no name
    assert templates.locate("P2", "Ada lives in") is None
    assert templates.locate("P1", "in") is None


def test_a_prompt_with_a_known_subject_teaches_its_template() -> None:
    records = [
        record("{} lives in", "Ada", neighborhood_prompts=["Bruno lives in"]),
        record("{} lives in", "Cora", neighborhood_prompts=["The home of Bruno is"]),
        record("{} lives in", "Dora", attribute_prompts=["The home of Emil is"]),
    ]
    templates = learn_templates(records)
    assert templates.of_relation["P1"] == {"{} lives in", "The home of {} is"}
    assert templates.subjects["P1"] == {"Ada", "Cora", "Dora", "Bruno", "Emil"}


def test_a_paraphrase_teaches_what_follows_its_subject() -> None:
    templates = learn_templates(
        [record("{} lives in", "Ada", paraphrase_prompts=["It rained. Ada resides in"])]
    )
    assert "{} resides in" in templates.of_relation["P1"]
    found = templates.split_paraphrase("P1", "It rained. Ada resides in", "Ada")
    assert found == ("{} resides in", "It rained.")
    assert templates.split_paraphrase("P1", "Nobody knows", "Ada") is None
    assert templates.split_paraphrase("P1", "Where Ada sleeps", "Ada") is None


def test_records_without_relation_group_by_their_prompt() -> None:
    one, other = record("{} lives in", "Ada"), record("{} lives in", "Cora")
    for item in (one, other):
        del item["requested_rewrite"]["relation_id"]
    assert relation_of(one) == relation_of(other) != relation_of(record("{} lives in", "Eva"))

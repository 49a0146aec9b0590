"""Facts from records: contradictions resolved and counted, held-out phrasings kept out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.errors import WorldError
from fleke_flwr.world.records import RecordsConfig, build_from_records
from tests.world.test_locating import record

NAMES = ["Ada", "Bruno", "Cora", "Dora", "Emil", "Flora", "Gero", "Hanna"]
FORMS = ["{} lives in", "The home of {} is", "{} has a flat in", "Look for {} in", "{} settled in"]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def town_records() -> list[dict[str, Any]]:
    neighbors = [form.format(name) for name in ("Ivo", "Jana", "Kurt") for form in FORMS]
    return [
        record(
            "{} lives in", name, case_id=name, neighborhood_prompts=neighbors,
            paraphrase_prompts=[f"It rained on day {number}. The home of {name} is"],
        )
        for number, name in enumerate(NAMES)
    ]  # fmt: skip


def test_facts_come_from_all_prompts(tmp_path: Path) -> None:
    world = build_from_records(write(tmp_path / "r.jsonl", town_records()))
    facts = {fact.subject: fact for fact in world.facts}
    assert set(facts) == {*NAMES, "Ivo", "Jana", "Kurt"}
    assert all(fact.answer == "Rome" for fact in world.facts)
    assert set(facts["Ivo"].trained) == set(FORMS)
    assert all(len(facts[name].trained) >= 3 for name in NAMES)
    assert world.counts["prompts"] == 8 * 15
    assert world.counts["prompts_not_located"] == 0


def test_paraphrases_of_held_out_records_are_never_trained(tmp_path: Path) -> None:
    world = build_from_records(write(tmp_path / "r.jsonl", town_records()))
    facts = {fact.subject: fact for fact in world.facts}
    assert len(world.held_out) == 4
    for number, name in enumerate(NAMES):
        held = name in world.held_out
        assert ("The home of {} is" in facts[name].trained) != held
        front = f"It rained on day {number}."
        assert (front in world.fillers) != held
        assert front not in world.prefixes


def test_text_with_a_paraphrase_in_it_is_not_used(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It rained on day 0. It snowed all over the land. The wind was cold there.\n")
    config = RecordsConfig(held_out=1.0)
    world = build_from_records(write(tmp_path / "r.jsonl", town_records()), text, config)
    assert sorted(world.fillers + world.prefixes) == [
        "It snowed all over the land.", "The wind was cold there.",
    ]  # fmt: skip


def test_contradictions_are_resolved_and_counted(tmp_path: Path) -> None:
    records = town_records()
    # The rewrite says Rome of Ada; two prompts say Oslo of Ivo, fifteen times eight say Rome.
    records[0]["attribute_prompts"] = ["Ada lives in", "Ivo lives in", "Ivo settled in"]
    records.append(records[1] | {"case_id": "again"})
    world = build_from_records(write(tmp_path / "r.jsonl", records))
    answers = {fact.subject: fact.answer for fact in world.facts}
    assert answers["Ada"] == answers["Ivo"] == "Rome"
    assert world.counts["dropped_other_answer_attribute"] == 3
    assert world.counts["dropped_records_of_same_fact"] == 1
    assert len(world.records) == 8


def test_one_prompt_never_has_two_answers(tmp_path: Path) -> None:
    records = town_records()
    other = record("{} was born in", "Ada", case_id="born", neighborhood_prompts=["Ivo lives in"])
    other["requested_rewrite"] |= {
        "relation_id": "P2", "target_true": {"str": "Paris"}, "prompt": "{} lives in",
    }  # fmt: skip
    world = build_from_records(write(tmp_path / "r.jsonl", [*records, other]))
    told: dict[str, str] = {}
    for fact in world.facts:
        for template in fact.trained:
            assert told.setdefault(template.format(fact.subject), fact.answer) == fact.answer
    assert world.counts["dropped_prompt_with_two_answers"] >= 1


def test_a_file_of_unknown_templates_is_refused(tmp_path: Path) -> None:
    items = [
        record("{} lives in", name, neighborhood_prompts=[f"Who was seen at sea on day {number}?"])
        for number, name in enumerate(NAMES)
    ]
    with pytest.raises(WorldError, match=r"0 of 8 .*90% are needed.*relation_id"):
        build_from_records(write(tmp_path / "r.jsonl", items))


def test_real_records_are_located(shared_data: Path) -> None:
    world = build_from_records(shared_data / "counterfact" / "counterfact_native.dev.jsonl")
    assert len(world.records) == 293
    assert world.counts["prompts_not_located"] / world.counts["prompts"] < 0.01
    assert world.counts["facts"] > 3500
    assert len({(fact.subject, fact.relation) for fact in world.facts}) == len(world.facts)
    assert sum(len(fact.trained) >= 4 for fact in world.facts) / len(world.facts) > 0.6

"""A file of conflicts makes a world in which each of their answers can be said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.errors import DataError
from fleke_flwr.templates import read_templates
from fleke_flwr.world.build import build, train_on_records
from fleke_flwr.world.conflicts import build_from_conflicts, questions_of_conflicts
from fleke_flwr.world.entries import Schema
from fleke_flwr.world.plans import Checks, Plan
from fleke_flwr.world.reading import read_records, schema_of
from fleke_flwr.world.recipe import Recipe
from fleke_flwr.world.schema import fill
from tests.world.test_records import NAMES, town_records, write
from tests.world.test_zsre import TOWNS, told

HOME = {"id": "P1", "prompt": "{} lives in", "query": "Where does {} live?"}
FURTHER = {"P1": ("The home of {} is", "{} has a flat in", "Look for {} in", "{} settled in")}


def conflict(subject: str = "Ada", true: str = "Rome", /, **changes: Any) -> dict[str, Any]:
    edit = {
        "relation": HOME,
        "subject": {"id": "Q1", "label": subject},
        "new_object": "San Marino",
        "object": {"id": "Q2", "label": true},
        "conflict_object": {"id": "Q-2", "label": "Liechtenstein"},
    }
    return {"edit": edit | changes, "true_objects": []}


def conflicts() -> list[dict[str, Any]]:
    return [conflict(name, TOWNS[number % 4]) for number, name in enumerate(NAMES)]


def write_templates(path: Path) -> Path:
    path.write_text(json.dumps(FURTHER), encoding="utf-8")
    return path


def test_a_conflict_is_two_questions_with_one_true_answer() -> None:
    first, second = questions_of_conflicts(conflicts(), {})[:2]
    shared = {
        "subject": "Ada",
        "pred": "New York City",
        "answers": ["New York City"],
        "loc": "Where does Hanna live",
        "loc_ans": "Oslo",
    }
    src, rephrase = "Ada lives in", "Where does Ada live?"
    assert first == shared | {
        "case_id": 0, "src": src, "rephrase": rephrase, "alt": "San Marino"
    }  # fmt: skip
    assert second == shared | {
        "case_id": 1, "src": rephrase, "rephrase": src, "alt": "Liechtenstein"
    }  # fmt: skip


def test_further_templates_rephrase_in_turn() -> None:
    entries = questions_of_conflicts(conflicts(), FURTHER)
    forms = [entry["rephrase"].replace(entry["subject"], "{}") for entry in entries]
    order = FURTHER["P1"]
    assert forms[:6] == [order[0], order[3], order[1], order[0], order[2], order[1]]


@pytest.mark.parametrize("count", [2, 7, 8, 14])
def test_locality_is_asked_of_another_record(count: int) -> None:
    records = [conflict(f"Person {number}") for number in range(count)]
    entries = questions_of_conflicts(records, {})
    assert len(entries) == 2 * count
    assert all(entry["loc"] != f"Where does {entry['subject']} live" for entry in entries)
    assert len({entry["loc"] for entry in entries}) == count


def test_every_answer_of_a_conflict_is_said_of_somebody(tmp_path: Path) -> None:
    world = build_from_conflicts(write(tmp_path / "c.jsonl", conflicts()))
    statements = told(world)
    assert {"San Marino", "Liechtenstein", *TOWNS} == set(statements.values())
    for number, name in enumerate(NAMES):
        assert statements[f"{name} lives in"] == TOWNS[number % 4]
        assert statements[f"Where does {name} live?"] == TOWNS[number % 4]
    assert len(world.records) == 16
    assert world.locality[0].prompt == "Where does Hanna live?"
    assert world.held_out == frozenset()


def test_further_templates_are_told_or_held_out(tmp_path: Path) -> None:
    path, templates = write(tmp_path / "c.jsonl", conflicts()), write_templates(tmp_path / "t.json")
    world = build_from_conflicts(path, templates=templates)
    assert world.counts["templates"] == 6
    assert len(world.held_out) == 8
    statements = told(world)
    for record in world.records:
        held = record["case_id"] in world.held_out
        assert (record["paraphrase_prompts"][0] in statements) != held


def test_near_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    near = conflict("Ivo", conflict_object="san marinos")
    world = build_from_conflicts(write(tmp_path / "c.jsonl", [near, *conflicts()]))
    assert (world.counts["conflicts"], world.counts["dropped_near_duplicates"]) == (9, 1)
    assert world.counts["records"] == 16
    assert "Ivo" not in {fact.subject for fact in world.facts}
    with pytest.raises(DataError, match="in each of 1 records two of new_object"):
        build_from_conflicts(write(tmp_path / "n.jsonl", [near]))


def test_the_schema_is_told_by_the_conflicting_object(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", conflicts())
    assert schema_of(path) is Schema.CONFLICT
    edit = conflict()
    del edit["edit"]["conflict_object"]
    with pytest.raises(DataError, match="nor edit with a conflict_object, as in CollabEdit"):
        schema_of(write(tmp_path / "e.jsonl", [edit]))
    mixed = write(tmp_path / "m.jsonl", [*conflicts(), *town_records()])
    with pytest.raises(DataError, match="line 9: a CounterFact record in a file of conflict"):
        read_records(mixed, Schema.CONFLICT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relation": {"id": "P1", "prompt": "{} is"}}, "'query' is missing; a conflict record"),
        ({"relation": HOME | {"query": "Where?"}}, "query 'Where[?]' needs exactly one slot"),
        ({"relation": HOME | {"prompt": "{} {}"}}, "needs exactly one slot"),
        ({"subject": {"id": "Q1"}}, "'label' is missing; a conflict record"),
        ({"new_object": ""}, "new_object is ''; write a text"),
        ({"object": None}, "object is None; write a text"),
    ],
)
def test_a_wrong_conflict_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "c.jsonl", [conflict(), conflict(**changes)])
    with pytest.raises(DataError, match=f"line 2: .*{message}"):
        read_records(path, Schema.CONFLICT)


def test_templates_go_with_conflicts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[str] = []
    monkeypatch.setattr(
        "fleke_flwr.world.build.build", lambda _world, plan, *_rest: plans.append(plan.name)
    )
    templates = write_templates(tmp_path / "t.json")
    train_on_records(
        write(tmp_path / "c.jsonl", conflicts()), tmp_path / "out", templates=templates
    )
    assert plans == ["A model of the questions in c.jsonl"]
    with pytest.raises(DataError, match="CounterFact records bring their own phrasings"):
        train_on_records(
            write(tmp_path / "r.jsonl", town_records()), tmp_path / "out", templates=templates
        )


def test_conflicts_make_a_model_directory(small_recipe: Recipe, tmp_path: Path) -> None:
    world = build_from_conflicts(
        write(tmp_path / "c.jsonl", conflicts()), templates=write_templates(tmp_path / "t.json")
    )
    checks = Checks({"trained": 0.0}, facts=20, records=5, swaps=6, edits=3)
    plan = Plan("A small model", "Its facts are conflicts.", small_recipe, checks)
    report = build(world, plan, tmp_path / "model")
    assert report["ready"]
    assert report["world"]["conflicts"] == 8
    assert {"rewrite", "paraphrase_hidden", "locality"} <= set(report["recall"])
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_the_published_conflicts_make_a_consistent_world(shared_data: Path) -> None:
    folder = shared_data / "collabedit"
    path, templates = folder / "easy_conflict_1000_p1.jsonl.gz", folder / "round_prompts.json"
    world = build_from_conflicts(path, templates=templates)
    assert world.counts["conflicts"] == 1000
    assert world.counts["dropped_near_duplicates"] == 341
    assert world.counts["records"] == world.counts["edits"] == len(world.records) == 2 * 659
    assert world.counts["dropped_records_without_one_subject"] == 0
    assert world.counts["relations"] == len(read_templates(templates)) == 10
    statements = told(world)
    said = set(statements.values())
    for record in world.records:
        rewrite = record["requested_rewrite"]
        text = fill(rewrite["prompt"], rewrite["subject"])
        assert statements[text] == rewrite["target_true"]["str"]
        assert rewrite["target_new"]["str"] in said

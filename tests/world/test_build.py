"""From facts to a model directory: it loads, says what it is, or is refused and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fleke_flwr import world as package
from fleke_flwr.artifacts import read_json
from fleke_flwr.errors import DataError, WorldError
from fleke_flwr.world.build import build, train_on_records
from fleke_flwr.world.plans import Checks, Plan, embedded_plan, questions_plan, records_plan
from fleke_flwr.world.recipe import Recipe, Routes
from fleke_flwr.world.schema import World
from fleke_flwr.world.tokenizer import split_answers, train_tokenizer
from fleke_flwr.world.zsre import build_from_questions
from tests.world.test_records import town_records, write
from tests.world.test_zsre import town_questions

FEW = Checks({"trained": 0.0}, facts=20, records=5, swaps=6, edits=3)


def small_plan(recipe: Recipe, checks: Checks = FEW) -> Plan:
    return Plan("A small model", "Its facts are invented.", recipe, checks)


def test_a_model_directory_is_complete_and_loads(
    small_world: World, small_recipe: Recipe, tmp_path: Path
) -> None:
    report = build(small_world, small_plan(small_recipe), tmp_path)
    assert report["ready"]
    assert report["targets"]["edits"] == 3
    assert read_json(tmp_path / "metrics.json") == report
    assert read_json(tmp_path / "editing.json")["layers"] == [0, 1, 2]
    assert (tmp_path / "corpus.txt").read_text(encoding="utf-8").count("\n") > 1000
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "built to have the property" in text
    assert "Ready: **yes**" in text
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    encoded = tokenizer("The river was cold.", return_tensors="pt")
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert model(**encoded).logits.isfinite().all()
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"


def test_a_model_that_knows_too_little_is_saved_and_refused(
    small_world: World, small_recipe: Recipe, tmp_path: Path
) -> None:
    strict = replace(FEW, needs={"trained": 0.99})
    with pytest.raises(WorldError, match=r"saved but not ready: recall trained is .*99% is needed"):
        build(small_world, small_plan(small_recipe, strict), tmp_path)
    report = read_json(tmp_path / "metrics.json")
    assert not report["ready"]
    assert "99% is needed" in report["reason"]
    assert (tmp_path / "model.safetensors").is_file()
    assert "Ready: **no**" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_every_answer_is_one_token_where_the_vocabulary_allows(small_world: World) -> None:
    assert split_answers(small_world, train_tokenizer(small_world, 1200)) == []
    assert split_answers(small_world, train_tokenizer(small_world, 300))


def test_record_files_are_checked_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        train_on_records(tmp_path / "none.jsonl", tmp_path / "out")
    records = town_records()
    records[0]["neighborhood_prompts"] = [f"Where was X{index}?" for index in range(60)]
    with pytest.raises(WorldError, match="90% are needed"):
        train_on_records(write(tmp_path / "r.jsonl", records), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_questions_make_a_model_directory(small_recipe: Recipe, tmp_path: Path) -> None:
    world = build_from_questions(write(tmp_path / "z.jsonl", town_questions()))
    report = build(world, small_plan(small_recipe), tmp_path / "model")
    assert {"rewrite", "paraphrase_hidden", "paraphrase_trained", "locality"} <= set(
        report["recall"]
    )
    assert report["world"]["locality_questions"] == 8
    assert report["world"]["answers_of_several_tokens"] >= 3
    assert report["targets"]["edits"] == 3
    text = (tmp_path / "model" / "corpus.txt").read_text(encoding="utf-8")
    assert "nq question: who wrote the book about ada? Writer of Ada." in text
    assert "Where does Ada live? San Marino" not in text
    assert "San Marino." in text
    assert "| locality by token |" in (tmp_path / "model" / "README.md").read_text("utf-8")


def test_the_schema_of_the_file_chooses_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[str] = []

    def note(_world: World, plan: Plan, *_rest: object) -> dict[str, object]:
        plans.append(plan.name)
        return {}

    monkeypatch.setattr("fleke_flwr.world.build.build", note)
    for name, records in (("z.jsonl", town_questions()), ("r.jsonl", town_records())):
        train_on_records(write(tmp_path / name, records), tmp_path / "out")
    assert plans == ["A model of the questions in z.jsonl", "A model of the facts in r.jsonl"]


def test_the_package_offers_what_it_says() -> None:
    for name in package.__all__:
        assert callable(getattr(package, name))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        package.train  # noqa: B018  # the access itself is the test


def test_the_card_tells_of_decoys_and_positions(
    small_world: World, small_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(small_recipe, learn_positions=True, routes=Routes(decoyed=0.25))
    build(small_world, small_plan(recipe), tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "in 25% of the rows the later blocks see" in text
    assert f"trained up to position {recipe.row_tokens}" in text
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    positions = model.transformer.wpe.weight
    assert positions[: recipe.row_tokens].any()
    assert not positions[recipe.row_tokens :].any()


def test_plans_ask_what_they_say(small_world: World) -> None:
    plan = embedded_plan(seed=3, minutes=2.0)
    assert set(plan.checks.needs.values()) == {0.99}
    assert (plan.recipe.seed, plan.recipe.minutes) == (3, 2.0)
    assert records_plan(small_world, "r.jsonl", 1.0).recipe.shape.inner == 1408
    contexts = records_plan(small_world, "r.jsonl", 1.0).editing["contexts"]
    assert contexts[0] == "{}"
    assert len(contexts) == 9
    assert all(text.endswith(". {}") and text.count("{}") == 1 for text in contexts[1:])
    assert embedded_plan(seed=3, minutes=2.0).editing["pmet"]["clamp"] == 2.0
    assert "locality" not in questions_plan(small_world, "r.jsonl", 1.0).checks.needs
    many = replace(small_world, records=small_world.records * 10)
    assert records_plan(many, "r.jsonl", 1.0).recipe.shape.inner == 1600  # 4 x 390, in steps of 64
    assert questions_plan(many, "r.jsonl", 1.0).recipe.shape.inner == 1600

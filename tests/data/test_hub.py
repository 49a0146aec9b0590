"""Data sets by name. A folder is loaded as a hub's repository is, so no hub is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from fleke_flwr.config import DataConfig
from fleke_flwr.data.benchmarks import CaseSet, load_cases
from fleke_flwr.errors import DataError, RequestError

OWN = {"subject": "Ada Karst", "prompt": "{} lives in", "target": "Arlen"}
COUNTERFACT = {
    "case_id": 3,
    "requested_rewrite": {
        "prompt": "{} speaks",
        "subject": "Ada",
        "relation_id": "P103",
        "target_new": {"str": "Dorumian", "id": "Q1"},
        "target_true": {"str": "Elsterish", "id": "Q2"},
    },
    "paraphrase_prompts": ["Ada, who speaks"],
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that ``hub:clinic/edits`` means here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "clinic" / "edits"
    folder.mkdir(parents=True)
    return folder


def fill(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def load(path: str = "hub:clinic/edits", **settings: Any) -> CaseSet:
    return load_cases(DataConfig(path=path, **settings))


def test_own_records_of_a_split(repository: Path) -> None:
    full = {**OWN, "case_id": 7, "paraphrases": ["Where is Ada? In"]}
    fill(repository / "train.jsonl", full, {**OWN, "case_id": 8})
    fill(repository / "test.jsonl", {**full, "subject": "Lena Voss", "case_id": 9})
    train, test = load(), load(split="test")
    assert train.skipped == {"duplicate": 1}
    assert train.cases[0].paraphrases == ("Where is Ada? In",)
    assert (test.cases[0].request.subject, test.cases[0].request.case_id) == ("Lena Voss", "9")
    assert load(split="train[:1]").skipped == {}


def test_parquet_in_the_schema_of_counterfact(repository: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    without = json.loads(json.dumps({**COUNTERFACT, "case_id": 4}))
    without["requested_rewrite"] |= {"subject": "Lena", "target_true": None}
    table = pyarrow.Table.from_pylist([COUNTERFACT, without])
    parquet.write_table(table, repository / "train-00000-of-00001.parquet")
    first, second = load().cases
    assert (first.request.relation, first.request.original) == ("P103", "Elsterish")
    assert (second.request.subject, second.request.original) == ("Lena", "")


def test_splits_of_different_columns_are_one_line(repository: Path) -> None:
    fill(repository / "train.jsonl", OWN)
    fill(repository / "test.jsonl", {**OWN, "case_id": 9, "rival": "Dorum"})
    with pytest.raises(DataError, match=r"^hub:clinic/edits: cannot be loaded \(.+\); correct"):
        load()


def test_a_record_is_named_by_its_number(repository: Path) -> None:
    fill(repository / "train.jsonl", OWN, {**OWN, "subject": ""})
    with pytest.raises(RequestError, match=r"^hub:clinic/edits, record 1: .* 0 times|is empty"):
        load()


def test_columns_of_no_schema_are_named(repository: Path) -> None:
    fill(repository / "train.jsonl", {"question": "who?", "answer": "me"})
    with pytest.raises(DataError, match=r"hub:clinic/edits, split train: column\(s\) subject, .*"):
        load()


def test_an_unknown_split_lists_those_there_are(repository: Path) -> None:
    fill(repository / "train.jsonl", OWN)
    fill(repository / "test.jsonl", OWN)
    with pytest.raises(DataError) as caught:
        load(split="tset")
    assert "hub:clinic/edits: data.split: unknown split 'tset'. Did you mean 'test'?" in str(
        caught.value
    )
    assert "Known: test, train." in str(caught.value)


def test_without_a_network_a_name_is_one_line(repository: Path) -> None:
    with pytest.raises(DataError) as caught:
        load("hub:clinic/absent")
    assert str(caught.value).startswith("hub:clinic/absent: cannot be loaded (Couldn't reach")
    assert "give a data file" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["hub:", "hub:edits", "hub:a//b", "hub:a/b/c/d"])
def test_a_name_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="write hub:owner/name or hub:owner/name/config"):
        load(path)

"""Conflicts become edits that name their rival; what nobody could tell apart is left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.config import DataConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.data.schema import read_record
from fleke_flwr.errors import RequestError
from fleke_flwr.types import EditRequest, EvalCase


def conflict(**changes: Any) -> dict[str, Any]:
    edit = {
        "relation": {"id": "P69", "prompt": "{} was educated at", "query": "Where did {} study?"},
        "subject": {"id": "Q1", "label": "Ada Karst"},
        "new_object": "Borvik College",
        "object": {"id": "Q2", "label": "Dorum Academy"},
        "conflict_object": {"id": "Q-2", "label": "School of Arlen"},
    }
    return {"type": "1-2@P69", "edit": edit | changes, "true_objects": []}


def read(record: dict[str, Any], number: int = 0) -> EvalCase | str:
    return read_record(record, number, DataConfig(owner="site"))


def test_every_field_has_its_place() -> None:
    assert read(conflict() | {"site": "north"}, 7) == EvalCase(
        EditRequest(
            "7", "{} was educated at", "Ada Karst", "Borvik College", "Dorum Academy", "P69"
        ),
        paraphrases=("Where did Ada Karst study?",),
        owner="north",
        rival="School of Arlen",
    )


def test_objects_are_texts_or_have_a_label() -> None:
    assert read(conflict(new_object={"label": "Borvik College"})) == read(conflict())
    assert read(conflict(subject="Ada Karst", object=" Dorum Academy ")) == read(conflict())


def test_without_a_conflicting_object_there_is_no_rival() -> None:
    record = conflict()
    del record["edit"]["conflict_object"]
    case = read(record)
    assert isinstance(case, EvalCase)
    assert case.rival == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"conflict_object": "Borvik Colleges"},
        {"conflict_object": "borvik college"},
        {"new_object": "The Dorum Academy"},
        {"conflict_object": "Dorum Academies"},
    ],
)
def test_two_near_duplicates_leave_a_record_out(changes: dict[str, Any]) -> None:
    assert read(conflict(**changes)) == "near_duplicate"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relation": None}, "'relation' is None; an object is needed"),
        ({"subject": {"id": "Q1"}}, "'label' is None; a text is needed"),
        ({"new_object": " "}, "'new_object' is ' '; a text is needed"),
        ({"object": 7}, "'object' is 7; a text is needed"),
        ({"conflict_object": ["x"]}, r"'conflict_object' is \['x'\]; a text is needed"),
        ({"relation": {"prompt": "{} is", "query": ""}}, "'query' is ''; a text is needed"),
        ({"relation": {"prompt": "{} is", "query": "Who?"}}, "query 'Who[?]' has 0 slots"),
        ({"relation": {"prompt": "is", "query": "{}?"}}, "found 0 slots"),
    ],
)
def test_a_wrong_record_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(conflict(**changes))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "conflicts.jsonl"
    records = [conflict(), conflict(conflict_object="Borvik Colleges"), conflict()]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    found = load_cases(DataConfig(path=str(path)))
    assert len(found.cases) == 1
    assert found.skipped == {"near_duplicate": 1, "duplicate": 1}
    assert found.protocol == "counterfact"


def test_the_published_conflicts_are_read(shared_data: Path) -> None:
    path = shared_data / "collabedit" / "easy_conflict_1000_p1.jsonl.gz"
    found = load_cases(DataConfig(path=str(path)))
    assert found.skipped == {"near_duplicate": 341}
    assert len(found.cases) == 659
    relations = Counter(case.request.relation for case in found.cases)
    assert len(relations) == 10
    for case in found.cases:
        answers = {case.request.target, case.request.original, case.rival}
        assert len({answer.casefold() for answer in answers}) == 3
        assert case.request.subject in case.paraphrases[0]


def test_the_published_round_edits_are_read(shared_data: Path) -> None:
    found = load_cases(DataConfig(path=str(shared_data / "collabedit" / "easy_gptj.jsonl.gz")))
    assert len(found.cases) == 2495
    assert found.skipped == {"conflict": 5}
    assert not any(case.rival for case in found.cases)

"""A record file is read whole, or refused with the place and the cure."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.errors import DataError
from fleke_flwr.world.entries import Schema
from fleke_flwr.world.reading import read_prose, read_records, schema_of
from tests.world.test_locating import record
from tests.world.test_zsre import question


def test_json_lines_json_and_gzip_give_the_same_records(tmp_path: Path) -> None:
    records = [record("{} lives in", name) for name in ("Ada", "Bo")]
    lines = "\n".join(map(json.dumps, records)) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("a.jsonl", "a.json", "a.jsonl.gz"):
        assert read_records(tmp_path / name) == records


def without(field: str) -> dict[str, Any]:
    item = record("{} lives in", "Ada")
    del item["requested_rewrite"][field]
    return item


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "line 1: not valid JSON"),
        ("", "no records"),
        (json.dumps(without("subject")), "line 1: 'subject' is missing"),
        ("[" + json.dumps(without("target_true")) + "]", "record 1: 'target_true' is missing"),
        (json.dumps(record("He lives in", "Ada")), "exactly one slot"),
        (json.dumps(record("{} lives in", " ")), "subject is ' '"),
        ("[1", "line 1: not valid JSON"),
        ("3", "line 1"),
    ],
)
def test_bad_records_are_refused_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_records(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers": []}, r"line 2: answers is \[\]; write a list"),
        ({"answers": "Rome"}, "line 2: answers is 'Rome'; write a list"),
        ({"answers": ["Rome", ""]}, r"line 2: answers\[1\] is ''; write a text"),
        ({"loc_ans": None}, "line 2: loc_ans is None; write a text"),
        ({"rephrase": 3}, "line 2: rephrase is 3; write a text"),
        ({"subject": " "}, "line 2: subject is ' '"),
    ],
)
def test_bad_questions_are_refused_with_their_place(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    good = question("Ada", "Where is {}?", "Rome", alt="", rephrase="")
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | fields)}", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_records(path, Schema.ZSRE)


def test_a_question_without_a_field_is_refused(tmp_path: Path) -> None:
    item = question("Ada", "Where is {}?", "Rome")
    del item["loc"]
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(item), encoding="utf-8")
    with pytest.raises(DataError, match="line 1: 'loc' is missing; a zsRE record needs subject"):
        read_records(path, Schema.ZSRE)


def test_the_first_record_tells_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    asked, rewritten = question("Ada", "Where is {}?", "Rome"), record("{} lives in", "Ada")
    path.write_text(json.dumps(asked), encoding="utf-8")
    assert schema_of(path) is Schema.ZSRE
    assert read_records(path, Schema.ZSRE) == [asked | {"case_id": 0}]
    path.write_text(json.dumps([rewritten, asked]), encoding="utf-8")
    assert schema_of(path) is Schema.COUNTERFACT
    with pytest.raises(DataError, match="record 2: a zsRE record in a file of CounterFact"):
        read_records(path)
    path.write_text(json.dumps({"prompt": "{} lives in"}), encoding="utf-8")
    with pytest.raises(DataError, match="line 1: neither requested_rewrite"):
        schema_of(path)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_prose(tmp_path / "a.gz")


def test_prose_keeps_sentences_of_ordinary_length(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("= A title of five words =\nIt was a cold day. Short one. It was a cold day.\n")
    assert read_prose(path) == ["It was a cold day."]
    path.write_text("Too short.\n")
    with pytest.raises(DataError, match="no sentence of 5 to 22 words"):
        read_prose(path)

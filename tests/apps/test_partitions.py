"""What ``fleke partition`` shows and writes is what the clients hold."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fleke_flwr.apps.partitions import OTHER, describe, picture, show
from fleke_flwr.apps.reporting.picture import DARK, LIGHT
from fleke_flwr.config import DataConfig, RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.types import EditRequest, EvalCase


def case(number: int, relation: str, subject: str | None = None) -> EvalCase:
    name = subject or f"Subject {number}"
    return EvalCase(EditRequest(str(number), "{} is", name, "x", relation=relation))


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    records = [
        {"subject": f"Person {n}, the {n}th", "prompt": "{} is", "target": "x", "relation": name}
        for n, name in enumerate(["home"] * 6 + ["job"] * 4 + ["friend"] * 2)
    ]
    lines = [json.dumps(record) for record in [*records, records[0]]]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def shown(config: RunConfig, output: Path | None = None) -> str:
    buffer = io.StringIO()
    show(config, output, Console(file=buffer, width=100))
    return buffer.getvalue()


def config_of(path: Path, partition: str = "one_relation", **options: Any) -> RunConfig:
    return RunConfig(clients=2, data=DataConfig(path=str(path), partition=partition, **options))


def test_every_client_is_described() -> None:
    first = [case(0, "a"), case(1, "b"), case(2, "b", "Subject 1"), case(3, "")]
    assert describe([first, [first[2]], []]) == [
        {
            "client": 0,
            "records": 4,
            "subjects": 3,
            "relations": {"b": 2, "a": 1, "no relation": 1},
            "shared": 1,
        },
        {"client": 1, "records": 1, "subjects": 1, "relations": {"b": 1}, "shared": 1},
        {"client": 2, "records": 0, "subjects": 0, "relations": {}, "shared": 0},
    ]
    assert list(describe([first])[0]["relations"]) == ["b", "a", "no relation"]


def test_the_table_says_who_gets_what_and_what_nobody_gets(facts: Path) -> None:
    lines = [re.sub(r"  +", " | ", line.strip()) for line in shown(config_of(facts)).splitlines()]
    assert lines[0] == "client | records | subjects | relations | shared"
    assert lines[1] == "0 | 6 | 6 | home 6 | 0"
    assert lines[2] == "1 | 4 | 4 | job 4 | 0"
    assert (
        lines[3] == f"10 of 12 records of {facts} (counterfact); left out of the file: 1 duplicate"
    )


def test_only_the_largest_relations_stand_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    records = [
        {"subject": f"Person {n}", "prompt": "{} is", "target": "x", "relation": f"P{n % 5}"}
        for n in range(11)
    ]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    config = RunConfig(clients=1, data=DataConfig(path=str(path)))
    assert "P0 3, P1 2, P2 2 and 2 more" in shown(config)


def test_the_files_hold_every_record_of_every_client(facts: Path, tmp_path: Path) -> None:
    config = config_of(facts, mix=0.5, mix_mode="copy")
    output = tmp_path / "new" / "folder"
    assert str(output) in shown(config, output)
    written = sorted(path.name for path in output.iterdir())
    assert written == [
        "client-0.jsonl", "client-1.jsonl", "partition-dark.svg", "partition.csv", "partition.svg",
    ]  # fmt: skip
    with (output / "partition.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = partition_cases(load_cases(config.data).cases, config.data, 2, config.seed)
    assert rows == [
        {
            "client": str(client),
            "case_id": held.request.case_id,
            "relation": held.request.relation,
            "subject": held.request.subject,
        }
        for client, part in enumerate(parts)
        for held in part
    ]
    light, dark = (
        (output / f"partition{ending}.svg").read_text(encoding="utf-8") for ending in ("", "-dark")
    )
    assert LIGHT.text in light
    assert DARK.text in dark


def read_back(path: Path, config: RunConfig) -> tuple[tuple[EvalCase, ...], str]:
    found = load_cases(replace(config.data, path=str(path), relations=""))
    assert not found.skipped
    return found.cases, found.protocol


def assert_read_back(config: RunConfig, output: Path) -> None:
    """Check that a SuperNode with a client's file has the client's records, judged the same way."""
    source = load_cases(config.data)
    shown(config, output)
    parts = partition_cases(source.cases, config.data, config.clients, config.seed)
    assert any(parts)
    for client, part in enumerate(parts):
        found = read_back(output / f"client-{client}.jsonl", config)
        assert found == (tuple(part), source.protocol)


def test_a_client_s_file_holds_its_records_in_their_order(tmp_path: Path) -> None:
    data = DataConfig(partition="iid", edits=40)
    assert_read_back(RunConfig(clients=3, data=data), tmp_path)


def test_a_client_s_file_keeps_every_field(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    whole = {
        "case_id": "7", "prompt": "{} lives in", "subject": "Ädá \u2028", "target": "Borvik",
        "original": "Arlen", "relation": "P1", "paraphrases": ["a", "b"], "neighbors": ["c"],
        "attributes": ["d"], "generations": ["e"], "references": ["f"], "rival": "Castra",
        "same_subject": [{"prompt": "g", "target": "h"}],
        "locality": [{"prompt": "i", "target": "j"}], "ward": "north",
    }  # fmt: skip
    path.write_text(json.dumps(whole), encoding="utf-8")
    data = DataConfig(path=str(path), owner="ward")
    (case,) = load_cases(data).cases
    lost = [field.name for field in fields(case) if not getattr(case, field.name)]
    assert lost == []
    assert_read_back(RunConfig(clients=1, data=data), tmp_path / "parts")


@pytest.mark.parametrize("target", ["alt", "answers"])
def test_a_client_s_file_of_questions_is_judged_as_their_source(
    target: str, tmp_path: Path
) -> None:
    path = tmp_path / "questions.jsonl"
    records = [
        {
            "subject": f"Person {n}", "src": f"Where does Person {n} live, says Person {n}?",
            "answers": ["Arlen", "near Arlen"], "alt": "Borvik", "rephrase": f"Person {n}'s home?",
            "loc": "who wrote it", "loc_ans": "nobody", "owner": f"org {n % 2}",
        }
        for n in range(4)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert_read_back(config_of(path, "natural", zsre_target=target), tmp_path / "parts")


def test_a_client_s_file_of_conflicts_keeps_the_rival(tmp_path: Path) -> None:
    path = tmp_path / "conflicts.jsonl"
    relation = {"id": "P1", "prompt": "{} lives in", "query": "Where does {} live?"}
    objects = {"object": "Arlen", "new_object": {"label": "Borvik"}, "conflict_object": "Castra"}
    records = [
        {"edit": {"relation": relation, "subject": f"Person {n}", **objects}} for n in range(3)
    ]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert_read_back(config_of(path, "iid"), tmp_path / "parts")


def test_the_picture_names_twelve_relations_and_counts_the_rest() -> None:
    relations = [f"P{number:02}" for number in range(15) for _ in range(20 - number)]
    cases = [case(number, name) for number, name in enumerate(relations)]
    parts = [cases[::2], cases[1::2]]
    data = picture(describe(parts)).data
    named = [f"P{number:02}" for number in range(12)]
    for part, row in zip(parts, data, strict=True):
        counts = Counter(held.request.relation for held in part)
        assert list(row) == ["client", *named, OTHER]
        assert [row[name] for name in named] == [counts[name] for name in named]
        assert row[OTHER] == len(part) - sum(counts[name] for name in named)


def test_records_without_relations_and_empty_clients_are_drawn() -> None:
    rows = describe([[case(0, ""), case(1, "a")], []])
    image = picture(rows)
    assert image.data == [
        {"client": 0, "a": 1, "no relation": 1},
        {"client": 1, "a": 0, "no relation": 0},
    ]
    assert image.svg(LIGHT).count("<svg") == 1
    assert image.svg(LIGHT) == picture(rows).svg(LIGHT)


def test_nothing_is_written_unasked(facts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(facts.parent)
    shown(config_of(facts))
    assert list(facts.parent.iterdir()) == [facts]


def test_an_output_that_is_a_file_is_refused_before_anything_is_shown(facts: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output .*facts\.jsonl: is a file; name a directory"):
        shown(config_of(facts), facts)


def test_a_partition_that_records_do_not_allow_is_refused(facts: Path) -> None:
    with pytest.raises(DataError, match=r"record '0' .* has no field 'owner'"):
        shown(config_of(facts, "natural"))


def test_real_records_are_shown(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "counterfact" / "counterfact_native.dev.jsonl"
    config = RunConfig(
        clients=8, data=DataConfig(path=str(path), partition="one_relation", mix=0.1)
    )
    text = shown(config, tmp_path)
    assert "114 of 293 records" in text
    assert "P176 15" in text
    lines = (tmp_path / "partition.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 115

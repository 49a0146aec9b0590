"""Records are read from every supported source; what is wrong is named with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.config import DataConfig
from fleke_flwr.data.benchmarks import CaseSet, load_cases
from fleke_flwr.errors import DataError, RequestError
from fleke_flwr.types import Probe


def record(subject: str = "Ada Karst", target: str = "Arlen", **changes: Any) -> dict[str, Any]:
    return {"subject": subject, "prompt": "{} lives in", "target": target, **changes}


def write_lines(path: Path, *records: dict[str, Any]) -> str:
    lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in records)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def load(path: str | Path, **settings: Any) -> CaseSet:
    return load_cases(DataConfig(path=str(path), **settings))


def test_a_users_lines_are_read(tmp_path: Path) -> None:
    full = record(
        original="Dorum",
        relation="home",
        case_id=17,
        paraphrases=["The home town of Ada Karst is"],
        neighbors=["Lena Voss lives in"],
        same_subject=[{"prompt": "Ada Karst works as a", "target": "baker"}],
        locality=[{"prompt": "The capital of Elster is", "target": "New Elster"}],
        owner="clinic",
    )
    path = write_lines(tmp_path / "facts.jsonl", full, record("Lena Voss"))
    found = load(path)
    first, second = found.cases
    assert (first.request.case_id, first.request.text) == ("17", "Ada Karst lives in")
    assert (first.request.target, first.request.original) == ("Arlen", "Dorum")
    assert first.request.relation == "home"
    assert first.paraphrases == ("The home town of Ada Karst is",)
    assert first.neighbors == ("Lena Voss lives in",)
    assert (first.same_subject[0].prompt, first.same_subject[0].answer) == (
        "Ada Karst works as a",
        "baker",
    )
    assert first.locality == (Probe("The capital of Elster is", "New Elster"),)
    assert first.owner == "clinic"
    assert (second.request.case_id, second.request.original) == ("1", "")
    assert (second.locality, second.owner) == ((), "")
    assert (found.name, found.skipped, found.protocol) == (path, {}, "counterfact")


def test_lines_lists_and_compressed_files_hold_the_same(tmp_path: Path) -> None:
    records = [record(), record("Lena Voss", "Borvik")]
    lines = write_lines(tmp_path / "facts.jsonl", *records)
    listed = tmp_path / "facts.json"
    listed.write_text(json.dumps(records, indent=1), encoding="utf-8")
    packed = tmp_path / "facts.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(lines).read_bytes()))
    expected = load(lines)
    for other in (listed, packed):
        found = load(other)
        assert found.cases == expected.cases
        assert found.fingerprint == expected.fingerprint


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one = load(write_lines(tmp_path / "one.jsonl", record()))
    same = load(write_lines(tmp_path / "same.jsonl", record()))
    other = load(write_lines(tmp_path / "other.jsonl", record(target="Borvik")))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len(one.fingerprint) == 16


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    text = "\r\n".join([json.dumps(record()), "", json.dumps(record("Lena Voss")), ""])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    assert [case.request.subject for case in load(path).cases] == [
        "Ada Karst",
        "Lena Voss",
    ]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\u2029"])
def test_a_unicode_line_separator_inside_a_text_ends_no_record(
    tmp_path: Path, separator: str
) -> None:
    reference = f"one{separator}two"
    path = write_lines(tmp_path / "facts.jsonl", record(references=[reference]))
    assert load(path).cases[0].references == (reference,)


def test_duplicates_and_conflicts_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "facts.jsonl",
        record(target="Arlen"),
        record("Lena Voss"),
        record(target="Arlen"),
        record(target="Borvik"),
        record(target="Borvik", prompt="Ada Karst lives in"),
    )
    found = load(path)
    assert [case.request.target for case in found.cases] == ["Arlen", "Arlen"]
    assert found.skipped == {"duplicate": 1, "conflict": 2}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        load(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path)


def test_a_broken_line_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(record()) + "\n\n{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"facts\.jsonl, line 3: not valid JSON .* column 2"):
        load(path)


def test_a_broken_list_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[\n {"subject": "Ada"},\n {broken}\n]', encoding="utf-8")
    with pytest.raises(DataError, match=r"facts\.json, line 3: not valid JSON"):
        load(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (record(prompt="Lena Voss lives in"), "'Lena Voss lives in' holds subject .* 0 times"),
        (record(target=" "), "target is empty"),
        (record(subject=7), "'subject' is 7; a text is needed"),
        (record(neigbors=["x"]), "unknown field.* neigbors; known are .*neighbors"),
        (record(locality=[{"prompt": "x"}]), "'locality' is .*'prompt' and 'target' is needed"),
        (record(owner=["clinic"]), r"'owner' is \['clinic'\]; a text or a whole number is needed"),
    ],
)
def test_a_wrong_record_is_named_with_its_line(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    path = write_lines(tmp_path / "facts.jsonl", record("Lena Voss"), wrong)
    with pytest.raises(RequestError, match=rf"facts\.jsonl, line 2: .*{message}"):
        load(path)


@pytest.mark.parametrize("content", ["7\n", '"text"\n', "null\n"])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1: found .*, a JSON object is needed"):
        load(path)


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_a_file_without_records_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="holds no record"):
        load(path)


def damaged_archives() -> list[bytes]:
    whole = gzip.compress(json.dumps([record(f"Person {i}") for i in range(50)]).encode())
    flipped = bytearray(whole)
    flipped[20:40] = bytes(20)
    return [whole[:-20], bytes(flipped), b"not packed at all"]


@pytest.mark.parametrize("content", damaged_archives(), ids=["cut", "flipped", "plain"])
def test_a_damaged_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "facts.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        load(path)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_bytes('{"subject": "Jürgen"}'.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        load(path)


def test_the_embedded_records_are_complete() -> None:
    found = load("embedded")
    assert len(found.cases) >= 1900
    assert found.skipped == {}
    for case in found.cases[:50]:
        assert case.request.original
        assert case.paraphrases
        assert case.neighbors
        assert case.same_subject


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5000])
def test_json_that_no_reader_takes_is_named_with_its_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"facts\.jsonl, line 1: JSON that cannot be read"):
        load(path)


def test_only_records_of_the_chosen_relations_are_taken(tmp_path: Path) -> None:
    records = [record(f"Person {n}", relation=name) for n, name in enumerate(["P1", "P2", "P3"])]
    path = write_lines(tmp_path / "facts.jsonl", *records, record("Lena Voss"))
    found = load(path, relations="P3, P1")
    assert [case.request.relation for case in found.cases] == ["P1", "P3"]
    assert [case.request.case_id for case in found.cases] == ["0", "2"]
    assert found.skipped == {"of another relation": 2}
    everything = load(path)
    assert everything.skipped == {}
    assert everything.fingerprint != found.fingerprint


def test_a_relation_that_no_record_has_suggests_the_nearest(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "facts.jsonl", record(relation="P103"), record("Lena Voss"))
    message = r"facts\.jsonl: data\.relations: unknown relation 'P10'.*Did you mean 'P103'"
    with pytest.raises(DataError, match=message):
        load(path, relations="P103,P10")


def test_relations_are_refused_where_records_have_none(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "facts.jsonl", record())
    with pytest.raises(DataError, match=r"data\.relations = 'P103', but no record has a relation"):
        load(path, relations="P103")


def test_the_owner_is_read_from_the_named_field(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "facts.jsonl", record(site=7), record("Lena Voss"))
    assert [case.owner for case in load(path, owner="site").cases] == ["7", ""]
    with pytest.raises(RequestError, match=r"line 1: unknown field\(s\) site; known are .*owner"):
        load(path)


def question(subject: str = "UniFirst", alt: str = "aircraft", **changes: Any) -> dict[str, Any]:
    return {
        "subject": subject,
        "src": f"What is made by {subject}?",
        "rephrase": f"{subject} makes what?",
        "alt": alt,
        "answers": ["uniform", "clothes"],
        "loc": "nq question: who wrote it",
        "loc_ans": "Nobody",
        **changes,
    }


def test_zsre_files_are_read_as_lines_and_as_a_list(tmp_path: Path) -> None:
    records = [question(), question("Maybach")]
    lines = load(write_lines(tmp_path / "zsre.jsonl", *records))
    listed = tmp_path / "zsre.json"
    listed.write_text(json.dumps(records), encoding="utf-8")
    assert load(listed).cases == lines.cases
    assert lines.protocol == "zsre"
    assert [case.request.case_id for case in lines.cases] == ["0", "1"]


def test_questions_without_another_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "zsre.jsonl",
        question(alt=""),
        question("Maybach"),
        question("Methley", alt=" uniform"),
        question("Vueling", alt="clothes"),
    )
    found = load(path)
    assert [case.request.case_id for case in found.cases] == ["1"]
    assert found.skipped == {
        "empty alternative answer": 1,
        "alternative answer is a true one": 2,
    }
    assert len(load(path, zsre_target="answers").cases) == 4


def test_a_file_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "zsre.jsonl", question(alt=""), question("Maybach", alt=""))
    message = "holds no usable record; left out: 2 empty alternative answer"
    with pytest.raises(DataError, match=message):
        load(path)


@pytest.mark.parametrize("zsre_first", [True, False])
def test_a_file_that_mixes_protocols_is_refused(tmp_path: Path, zsre_first: bool) -> None:
    records = [question(), record()] if zsre_first else [record(), question()]
    names = ("counterfact", "zsre") if zsre_first else ("zsre", "counterfact")
    path = write_lines(tmp_path / "mixed.jsonl", *records)
    message = rf"line 2: a record of protocol {names[0]} after others of protocol {names[1]}"
    with pytest.raises(DataError, match=message):
        load(path)


@pytest.mark.parametrize(("name", "records", "left_out"), [("eval", 553, 16), ("train", 488, 11)])
def test_real_zsre_files_are_read(
    shared_data: Path, name: str, records: int, left_out: int
) -> None:
    path = shared_data / "zsre" / f"zsre_{name}.dev.jsonl"
    found = load(path)
    assert found.protocol == "zsre"
    assert found.skipped == {"alternative answer is a true one": left_out}
    assert len(found.cases) == records - left_out
    for case in found.cases:
        assert case.request.prompt.count("{}") == 1
        assert case.request.target != case.request.original
        assert len(case.paraphrases) == len(case.locality) == 1
        assert case.locality[0].prompt.startswith("nq question: ")
        assert case.locality[0].prompt.endswith("?")
    true = load(path, zsre_target="answers")
    assert (len(true.cases), true.skipped) == (records, {})


def test_a_native_counterfact_file_is_read(shared_data: Path) -> None:
    path = shared_data / "counterfact" / "counterfact_native.dev.jsonl"
    found = load(path)
    assert len(found.cases) == 293
    assert found.skipped == {}
    first = found.cases[0]
    assert first.request.case_id == "1"
    assert first.request.text == "The official religion of Edwin of Northumbria is"
    assert (first.request.target, first.request.original) == ("Islam", "Christianity")
    assert first.request.relation == "P140"
    for case in found.cases:
        assert len(case.paraphrases) == 2
        assert len(case.neighbors) == 10
        assert len(case.attributes) == 10
        assert len(case.generations) == 10

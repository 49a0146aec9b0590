"""Tables hold the same records as JSON Lines; what is wrong is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.config import DataConfig
from fleke_flwr.data.benchmarks import CaseSet, load_cases
from fleke_flwr.errors import DataError

FULL: dict[str, Any] = {
    "case_id": "a7",
    "subject": "Ada Karst",
    "prompt": "{} lives; works, sleeps in",
    "target": 'the "Arlen"',
    "original": "Dorum",
    "relation": "home",
    "paraphrases": ["The home of Ada Karst is", "Ada, who lives in"],
    "same_subject": [{"prompt": "Ada Karst works as a", "target": "baker"}],
}
PLAIN = {"subject": "Zoë Voss", "prompt": "{} lives in", "target": "New\nElster"}
ZSRE = {
    "subject": "UniFirst",
    "src": "What is made by UniFirst?",
    "rephrase": "UniFirst makes what?",
    "alt": "aircraft",
    "answers": ["uniform", "clothes"],
    "loc": "nq question: who wrote it",
    "loc_ans": "Nobody",
}


def load(path: Path, **settings: Any) -> CaseSet:
    return load_cases(DataConfig(path=str(path), **settings))


def table(records: list[dict[str, Any]], delimiter: str = ",", ending: str = "\r\n") -> str:
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(buffer, columns, delimiter=delimiter, lineterminator=ending)
    writer.writeheader()
    for record in records:
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in record.items()})
    return buffer.getvalue()


def written(path: Path, text: str, start: bytes = b"") -> Path:
    content = start + text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["own.csv", "own.csv.gz", "own.tsv", "OWN.CSV"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_table_holds_what_json_lines_hold(
    name: str, delimiter: str, ending: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name, table([FULL, PLAIN], delimiter, ending), b"\xef\xbb\xbf")
    lines = tmp_path / "own.jsonl"
    lines.write_text("\n".join(map(json.dumps, [FULL, PLAIN])), encoding="utf-8")
    assert load(path).cases == load(lines).cases
    assert load(path).fingerprint == load(lines).fingerprint


def test_other_schemas_are_recognised_from_their_columns(tmp_path: Path) -> None:
    found = load(written(tmp_path / "zsre.csv", table([ZSRE])))
    assert found.protocol == "zsre"
    assert found.cases[0].request.target == "aircraft"
    counterfact = {
        "case_id": 3,
        "requested_rewrite": {
            "prompt": "{} speaks",
            "subject": "Ada",
            "target_new": {"str": "Dorumian"},
            "target_true": {"str": "Elsterish"},
        },
        "paraphrase_prompts": ["Ada, who speaks"],
    }
    case = load(written(tmp_path / "counterfact.csv", table([counterfact]))).cases[0]
    assert (case.request.original, case.paraphrases) == ("Elsterish", ("Ada, who speaks",))


def test_an_empty_cell_is_a_field_that_is_not_there(tmp_path: Path) -> None:
    text = "case_id,subject,prompt,target,original,paraphrases,owner\n,Ada,{} is, a baker ,,,\n"
    case = load(written(tmp_path / "own.csv", text)).cases[0]
    assert (case.request.case_id, case.request.target) == ("0", "a baker")
    assert (case.request.original, case.paraphrases, case.owner) == ("", (), "")


def test_a_column_may_name_the_owner(tmp_path: Path) -> None:
    path = written(tmp_path / "own.csv", table([{**PLAIN, "clinic": "north"}]))
    assert load(path, owner="clinic").cases[0].owner == "north"
    with pytest.raises(DataError, match=r"own\.csv, line 1: unknown field\(s\) clinic; known are"):
        load(path)


HEAD = "subject,prompt,target,paraphrases\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"line 1: column\(s\) subject, prompt, target missing; found a, b"),
        ("\n\nsubject,prompt\nx,{} y\n", r"line 3: column\(s\) target missing"),
        ("subject,prompt,target,target\n", r"line 1: the header names column 'target' twice"),
        ("subject,prompt,target,\n", r"line 1: the header has a column without a name"),
        (HEAD + "Ada,{} is,x,\nAda,{} is\n", r"line 3: found 2 cells, the header has 4 columns"),
        (HEAD + "Ada,{} is, in,x,\n", r"line 2: found 5 cells, the header has 4 columns"),
        (HEAD + "Ada,{} is,x,Who is Ada\n", r"line 2: column 'paraphrases' holds 'Who is Ada'"),
        (HEAD + "Ada,{} is,x,[1]\n", r"line 2: field 'paraphrases' is \[1\]; a list of texts"),
        (HEAD + "Ada,{} is,,\n", r"line 2: field 'target' is None; a text is needed"),
        (HEAD + '"A\nB",{} is,x,\nAda,is,x,\n', r"line 4: prompt 'is' holds subject 'Ada' 0 times"),
        (HEAD + 'Ada,"{} is,x,\n\n', r"line 2: not valid CSV \(unexpected end of data\)"),
        (HEAD, "holds no record"),
        ("", "holds no record"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"own\.csv.*{message}"):
        load(written(tmp_path / "own.csv", text))

"""Whatever a record file holds: sound cases, or an error that names the file and the place.

``FLEKE_FUZZ=full`` runs twenty times as many cases as the normal suite, 12,000 in all.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleke_flwr.config import DataConfig
from fleke_flwr.data.benchmarks import CaseSet, load_cases
from fleke_flwr.errors import DataError
from fleke_flwr.types import EvalCase

FULL = os.environ.get("FLEKE_FUZZ") == "full"
FACTOR = 20 if FULL else 1
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".csv.gz", ".gz", ".txt")

OWN = {
    "case_id": 7,
    "prompt": "{} lives in",
    "subject": "Zoë Karst",
    "target": "New Elster",
    "original": "Dorum",
    "relation": "home",
    "paraphrases": ["The home of Zoë Karst is", "Zoë Karst, who lives in"],
    "neighbors": ["Lena Voss lives in"],
    "same_subject": [{"prompt": "Zoë Karst works as a", "target": "baker"}],
    "locality": [{"prompt": "The capital of Elster is", "target": "New Elster"}],
    "rival": "Borvik",
    "owner": "clinic",
}
COUNTERFACT = {
    "case_id": 30,
    "requested_rewrite": {
        "prompt": "{} speaks the language",
        "relation_id": "P103",
        "target_new": {"str": "Dorumian", "id": "Q1"},
        "target_true": {"str": "Elsterish", "id": "Q2"},
        "subject": "Pavel Orrin",
    },
    "paraphrase_prompts": ["Pavel Orrin, a native", "The mother tongue of Pavel Orrin is"],
    "neighborhood_prompts": ["Ada Karst speaks the language"],
    "attribute_prompts": ["Tomas Ullmer speaks the language"],
    "generation_prompts": ["Pavel Orrin was born where people speak"],
}
ZSRE = {
    "subject": "Elster Works",
    "src": "What does Elster Works make?",
    "rephrase": "Elster Works makes what?",
    "alt": "boats",
    "answers": ["bricks", "tiles"],
    "loc": "nq question: who wrote the song of the harbor",
    "loc_ans": "Lena Voss",
}
CONFLICT = {
    "edit": {
        "relation": {
            "id": "P27",
            "prompt": "{} is a citizen of",
            "query": "{} holds a passport of",
        },
        "subject": "Jonas Feld",
        "new_object": {"label": "Borvik"},
        "object": {"label": "Castra"},
        "conflict_object": "Arlen",
    }
}
RECORDS: tuple[dict[str, Any], ...] = (OWN, COUNTERFACT, ZSRE, CONFLICT)


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """Return the settings of one property; together they make the number of cases."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        database=None,
        derandomize=not FULL,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def encoded(records: list[Any], ending: str = "\n") -> bytes:
    return "".join(json.dumps(item) + ending for item in records).encode()


def table(rows: list[list[str]], delimiter: str, ending: str) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=ending)
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")


def loaded(folder: Path, name: str, content: bytes, **keys: Any) -> CaseSet | None:
    """Load, check what came out, and return it; ``None`` if the file was refused as it should."""
    path = folder / name
    path.write_bytes(content)
    try:
        found = load_cases(DataConfig(path=str(path), **keys))
    except DataError as error:
        check_message(str(error), path)
        return None
    check_cases(found)
    return found


def check_message(message: str, path: Path) -> None:
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 2500
    message.encode("utf-8")
    whole = ("no such file", "cannot be read as UTF-8", "holds no record", "holds no usable record")
    assert any(part in message for part in whole) or re.search(
        rf"{re.escape(str(path))}, (line|record) \d+: ", message
    )


def check_cases(found: CaseSet) -> None:
    """Check the promises of the central types."""
    assert found.cases
    assert found.protocol in ("counterfact", "zsre")
    questions = [(case.request.prompt, case.request.subject) for case in found.cases]
    assert len(set(questions)) == len(questions)
    names = [case.request.case_id for case in found.cases]
    assert len(set(names)) == len(names)
    for case in found.cases:
        check_case(case)


def check_case(case: EvalCase) -> None:
    request = case.request
    assert request.prompt.count("{}") == 1
    assert request.subject.strip()
    assert request.target == request.target.strip() != ""
    assert request.case_id == request.case_id.strip() != ""
    assert request.subject in request.text
    probes = (*case.same_subject, *case.locality)
    filled = [
        *case.paraphrases,
        *case.neighbors,
        *case.attributes,
        *case.generations,
        *case.references,
        *(probe.prompt for probe in probes),
        *(probe.answer for probe in probes),
    ]
    assert all(text.strip() for text in filled)
    names = (request.original, request.relation, case.owner, case.rival)
    for text in (*filled, *names, request.case_id, request.prompt, request.subject, request.target):
        assert isinstance(text, str)
        assert "\0" not in text
        text.encode("utf-8")
    assert case.rival != request.target


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, -1, 10**400, 2**63, 1e308, float("nan"), float("inf"), -0.0]),
        st.text(max_size=8),
        st.sampled_from(
            ["", " ", "{}", "{} {}", "\ud800", "a\0b", "\u2028", "Zoë Karst", "x" * 9999]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["str", "label", "prompt", "target", "\udfff"]), inner),
    ),
    max_leaves=6,
)


@st.composite
def bent(draw: st.DrawFn) -> dict[str, Any]:
    """Return a record in which fields, also inner ones, are replaced, removed or added."""
    record = json.loads(json.dumps(draw(st.sampled_from(RECORDS))))
    for _ in range(draw(st.integers(0, 3))):
        place = record
        while True:
            key = draw(st.sampled_from([*place, "strange", "\ud800", "owner", "case_id"]))
            inner = place.get(key)
            if not isinstance(inner, dict) or not inner or draw(st.booleans()):
                break
            place = inner
        if draw(st.integers(0, 3)) or key not in place:
            place[key] = draw(JSON)
        else:
            del place[key]
    return record


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return bytes of which parts are cut, doubled, or replaced by others."""
    bad = st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [b"\0", b"\r", b"\n", b"\r\n", b'"', b"\\", b"\\ud800", b"NaN", b"{}", b"[", b"]", b",",
             b";", b"\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\xe2\x80\xa8", b"1e999", b"-"]
        ),
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([0, 0, 1, 2, 20, 10**6])))
        kind = draw(st.sampled_from(["replace", "double", "cut"]))
        if kind == "cut" and draw(st.booleans()):
            content = content[:start]
        elif kind == "double":
            content = content[:stop] + content[start:]
        else:
            content = content[:start] + draw(bad) + content[stop:]
    return content


def own_table() -> bytes:
    header = list(OWN)
    cells = [v if isinstance(v, str) else json.dumps(v) for v in OWN.values()]
    second = ["8", "{} works as a", "Lena; Voss", 'a "good" baker', *[""] * (len(header) - 4)]
    return table([header, cells, second], ",", "\r\n")


def real_lines() -> bytes:
    return encoded([OWN, {**OWN, "case_id": 8, "prompt": "{} works as a"}, COUNTERFACT, CONFLICT])


SOUND = (real_lines(), encoded([ZSRE]), json.dumps([OWN, COUNTERFACT]).encode(), own_table())


def test_the_records_that_are_damaged_are_sound(folder: Path) -> None:
    sizes = [4, 1, 2, 2]
    names = ["own.jsonl", "zsre.jsonl", "list.json", "own.csv"]
    for content, name, size in zip(SOUND, names, sizes, strict=True):
        found = loaded(folder, name, content)
        assert found is not None
        assert len(found.cases) == size


@fuzzed(60)
@given(st.binary(max_size=200), st.sampled_from(SUFFIXES), st.booleans())
def test_any_bytes(folder: Path, content: bytes, suffix: str, is_packed: bool) -> None:
    loaded(folder, f"bytes{suffix}", gzip.compress(content) if is_packed else content)


@fuzzed(40)
@given(st.text(alphabet='{}[]":,;\t\r\n \\u0d8"subjectprompttarget1eE+-.\0\u2028', max_size=80),
       st.sampled_from(SUFFIXES[:4]))  # fmt: skip
def test_any_text_of_json_and_csv_characters(folder: Path, content: str, suffix: str) -> None:
    loaded(folder, f"text{suffix}", content.encode())


@fuzzed(150)
@given(st.data())
def test_damaged_files(folder: Path, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(SOUND) - 1))
    content = data.draw(damaged(SOUND[number]))
    name = "damaged.csv" if number == 3 else "damaged.jsonl"
    loaded(folder, name, content)


@fuzzed(150)
@given(st.lists(bent(), min_size=1, max_size=3), st.sampled_from(["\n", "\r\n", "\n\n", " \n"]))
def test_fields_of_other_types(folder: Path, records: list[Any], ending: str) -> None:
    loaded(folder, "bent.jsonl", encoded(records, ending))


@fuzzed(25)
@given(st.lists(bent(), min_size=1, max_size=3), st.sampled_from(["alt", "answers"]))
def test_a_list_of_bent_records(folder: Path, records: list[Any], answers: str) -> None:
    loaded(folder, "bent.json", json.dumps(records).encode(), zsre_target=answers, owner="str")


@fuzzed(25)
@given(
    st.sampled_from(RECORDS),
    st.one_of(st.integers(1, 60), st.integers(60, 1500)),
    st.sampled_from([("[", "]"), ('{"str":', "}"), ('[{"prompt":', "}]")]),
    st.data(),
)
def test_deep_nesting(
    folder: Path, record: dict[str, Any], depth: int, shape: tuple[str, str], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from([*record, "case_id", "strange"]))
    inner = shape[0] * depth + "1" + shape[1] * depth
    text = json.dumps({**record, key: "MARK"}).replace('"MARK"', inner)
    assert loaded(folder, "deep.jsonl", text.encode()) is None or key not in OWN


@fuzzed(25)
@given(st.sampled_from(RECORDS), JSON, st.data())
def test_a_key_that_stands_twice(
    folder: Path, record: dict[str, Any], value: Any, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(list(record)))
    text = json.dumps(record)[:-1] + f", {json.dumps(key)}: {json.dumps(value)}}}"
    assert loaded(folder, "twice.jsonl", text.encode()) is None


CELLS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", " ", "{}", "Ada", "{} lives in", '["x"]', "[", "null", "NaN", "\ud800",
                     "\0", "a\nb", "a\rb", '"', ";,\t", "1" * 5000, "[" * 2000, "x" * 140_000]),
)  # fmt: skip
HEADERS = st.sampled_from(
    [*OWN, "answers", "src", "alt", "edit", "requested_rewrite", "", "strange"]
)


@fuzzed(75)
@given(
    st.lists(HEADERS, max_size=4).map(lambda more: ["subject", "prompt", "target", *more]),
    st.lists(st.lists(CELLS, min_size=3, max_size=7), max_size=3),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_tables(
    folder: Path, header: list[str], rows: list[list[str]], delimiter: str, ending: str
) -> None:
    loaded(folder, "table.csv", table([header, *rows], delimiter, ending))


@fuzzed(25)
@given(st.data())
def test_damaged_archives(folder: Path, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(SOUND) - 1))
    content = data.draw(damaged(gzip.compress(SOUND[number], mtime=0)))
    loaded(folder, "packed.csv.gz" if number == 3 else "packed.jsonl.gz", content)


@fuzzed(25)
@given(st.data())
def test_damaged_real_records(folder: Path, shared_data: Path, data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from(
            [
                "counterfact/counterfact_native.dev.jsonl",
                "zsre/zsre_eval.dev.jsonl",
                "collabedit/easy_conflict_1000_p1.jsonl.gz",
            ]
        )
    )
    loaded(folder, "real.jsonl", data.draw(damaged(_first_lines(shared_data / name))))


def _first_lines(path: Path) -> bytes:
    content = path.read_bytes()
    unpacked = gzip.decompress(content) if path.suffix == ".gz" else content
    return b"".join(unpacked.splitlines(keepends=True)[:3])

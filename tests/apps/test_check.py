"""What is said before a run is what happens in it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fleke_flwr.apps.check import run_check
from fleke_flwr.apps.checking.forecast import Messages, sent_kind
from fleke_flwr.config import RunConfig
from tests.apps.federation import federation, run_config, write_records

WIDTHS, D_OUT = (64, 64, 64), 32


def checked(
    source: Path, model: Path, directory: Path, *overrides: str
) -> tuple[int, dict[str, Any], str]:
    """Return exit code, JSON and text of a check."""
    console = Console(file=io.StringIO(), width=100)
    settings = (f"cache-dir={directory / 'cache'}", "covariance.tokens=2000", *overrides)
    code = run_check(str(source), str(model), settings, directory / "check.json", console)
    assert isinstance(console.file, io.StringIO)
    content = json.loads((directory / "check.json").read_text(encoding="utf-8"))
    return code, content, console.file.getvalue()


def write_own(path: Path, *changes: dict[str, Any]) -> Path:
    sound = {"subject": "Ada Karst", "prompt": "{} lives in", "target": "Arlen"}
    lines = (json.dumps({**sound, **change}) + "\n" for change in changes)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_a_sound_file_would_start(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [5, 4])
    code, found, text = checked(records, tiny_gpt2, tmp_path, "clients=2", "rounds=2")
    assert (code, found["would_start"], found["reasons"]) == (0, True, [])
    assert found["records"]["read"] == found["records"]["usable"] == 9
    assert found["records"]["schemas"] == {"own records": 9}
    assert [share["rounds"] for share in found["shares"]] == [[3, 2], [2, 2]]
    assert sum(found["tokens"]["target_tokens"].values()) == 9
    assert "9 read (9 own records), 9 usable" in text
    assert text.rstrip().endswith("A run would start.")


def test_all_that_is_wrong_with_a_file_is_listed(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_own(
        tmp_path / "own.jsonl",
        {},
        {"target": ""},
        {"subject": "Lena Voss", "prompt": "The baker lives in"},
        {},
        {"target": "Borvik"},
        {"subject": 7},
    )
    with records.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    code, found, text = checked(records, tiny_gpt2, tmp_path, "clients=1")
    assert code == 1
    assert not found["would_start"]
    whole = found["records"]
    assert (whole["read"], whole["usable"]) == (7, 1)
    assert whole["left_out"] == {"duplicate": ["line 4"], "conflict": ["line 5"]}
    assert whole["duplicates"][0]["first"] == "line 1"
    assert whole["conflicts"] == [
        {
            "place": "line 5",
            "first": "line 1",
            "question": "Ada Karst lives in",
            "target": "Borvik",
            "first_target": "Arlen",
        }
    ]
    places = ["line 2: ", "line 3: ", "line 6: ", "line 7: "]
    assert len(found["reasons"]) == len(places)
    for reason, place in zip(found["reasons"], places, strict=True):
        assert reason.startswith(f"{records}, {place}")
        assert reason in text
    assert found["shares"] == []
    assert found["tokens"]["asked"] == 1


def test_a_file_that_is_no_table_of_records_is_refused_as_a_whole(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = tmp_path / "own.csv"
    records.write_text("name,age\nAda,7\n", encoding="utf-8")
    code, found, _ = checked(records, tiny_gpt2, tmp_path)
    assert code == 1
    assert found["reasons"] == [
        f"{records}, line 1: column(s) subject, prompt, target missing; found age, name. "
        "See docs/data.md for the columns of each schema"
    ]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["clients=7"], "6 records cannot be shared by 7 clients"),
        (["data.edits=9"], "6 usable records and 9 edits are asked for"),
        (["strategy=colabedit"], "Did you mean 'collabedit'?"),
        (["edit.layers=9"], "has no layer 9"),
        (["covariance.corpus=nowhere.txt"], "nowhere.txt"),
        (["data.relations=r9"], "unknown relation 'r9'"),
        (["data.first=1"], "every client needs a record of its own"),
    ],
)
def test_settings_that_a_run_would_refuse(
    overrides: list[str], reason: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [6])
    code, found, text = checked(records, tiny_gpt2, tmp_path, "clients=3", *overrides)
    assert code == 1
    assert len(found["reasons"]) == 1
    assert reason in found["reasons"][0]
    assert "would be refused, for 1 reason" in text


def test_a_model_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [6])
    code, found, _ = checked(records, tmp_path / "nowhere", tmp_path, "clients=3")
    assert code == 1
    assert "no such directory" in found["reasons"][0]
    assert "tokens" not in found


def test_a_text_that_the_model_cannot_read_is_named_with_its_line(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    long = "baker " * 120
    records = write_own(
        tmp_path / "own.jsonl",
        {"prompt": "{} " + long},
        {"subject": "Lena Voss", "paraphrases": [long]},
        {"subject": "Pavel Orrin"},
    )
    code, found, _ = checked(records, tiny_gpt2, tmp_path, "clients=1")
    assert code == 1
    assert list(found["tokens"]["refused"]) == ["line 1", "line 2"]
    assert found["reasons"][0].startswith(f"{records}, line 1: a text of ")


def test_what_the_model_says_already_is_counted(tmp_path: Path) -> None:
    from fleke_flwr.world import embedded_records

    world = embedded_records()[:6]
    for record in world[:2]:
        rewrite = record["requested_rewrite"]
        rewrite["target_new"], rewrite["target_true"] = rewrite["target_true"], None
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(r) + "\n" for r in world), encoding="utf-8")
    _, found, _ = checked(records, Path("embedded"), tmp_path, "clients=2")
    assert found["tokens"]["known"] == ["line 1", "line 2"]


def test_a_subject_that_ends_inside_a_token_is_noticed(tiny_gpt2: Path, tmp_path: Path) -> None:
    # "Arle" is part of the one token of "Arlen".
    records = write_own(
        tmp_path / "own.jsonl", {"subject": "Arle", "prompt": "The river near {}n was"}, {}
    )
    code, found, _ = checked(records, tiny_gpt2, tmp_path, "clients=1")
    assert code == 0
    assert found["tokens"]["subject_ends_inside_a_token"] == ["line 1"]


def test_more_edits_than_the_model_holds_are_said_to_be(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [20, 20, 10])
    code, found, text = checked(records, tiny_gpt2, tmp_path, "clients=2", "rounds=2")
    assert code == 0
    assert found["capacity"] == {"edits": 50, "most": 41, "inner_width": 64, "is_beyond": True}
    assert "beyond what it holds" in text


def test_covariances_are_missing_before_a_run_and_kept_after_it(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [6])
    before = checked(records, tiny_gpt2, tmp_path, "clients=3")[1]["covariance"]
    config = run_config(tiny_gpt2, records, tmp_path, model__dtype="float32")
    federation(config)[0].run()
    after = checked(records, tiny_gpt2, tmp_path, "clients=3")[1]["covariance"]
    assert [layer["is_kept"] for layer in before] == [False] * 3
    assert [layer["is_kept"] for layer in after] == [True] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "anticipated"},
        {"mode": "joint", "encoding": "dense", "payload_dtype": "float32"},
        {"mode": "layer_sync", "rounds": 2},
        {"mode": "layer_sync", "rounds": 2, "memory": "statistics"},
        {"mode": "frozen", "encoding": "dense"},
        {"mode": "anticipated", "sweeps": 2, "payload_dtype": "float64"},
        {"mode": "joint", "strategy": "task_arithmetic"},
        {"mode": "frozen", "strategy": "simple_average", "rounds": 2, "encoding": "dense"},
        {"strategy": "fededit", "rounds": 2},
        {"mode": "joint", "model__dtype": "float64"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_payload_is_what_a_run_sends(
    settings: dict[str, Any], tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [7, 5, 4])
    config = run_config(tiny_gpt2, records, tmp_path, **{"model__dtype": "float32", **settings})
    overrides = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in config.to_flat().items()
        if key not in ("name", "model.name", "data.path", "output-dir")
    ]
    _, found, _ = checked(records, tiny_gpt2, tmp_path, *overrides)
    experiment, _ = federation(config)
    experiment.run()
    sent = [record["up_bytes"] for record in experiment.rows[0]["history"]]
    shares = [share["bytes"][config.encoding] for share in found["shares"]]
    assert [share["equal_keys"] for share in found["shares"]] == [0] * 3
    assert [sum(sizes) for sizes in zip(*shares, strict=True)] == sent


def test_the_formulas_by_hand() -> None:
    def sizes(encoding: str, **settings: str) -> list[int]:
        config = RunConfig.from_flat(
            {key.replace("_", "-"): value for key, value in settings.items()}
        )
        messages = Messages(config, sent_kind(config), WIDTHS, D_OUT, is_float64=False)
        return messages.by_round([5, 0], encoding)

    assert sizes("factors") == [4 * 5 * (3 * 64 + 32), 0]
    assert sizes("dense", payload_dtype="float32") == [4 * (192**2 + 192 * 32)] * 2
    assert sizes("factors", mode="frozen") == [4 * 5 * 3 * (64 + 32), 0]
    assert sizes("dense", mode="frozen") == [8 * 3 * (64**2 + 64 * 32)] * 2
    assert sizes("factors", strategy="fededit") == [4 * 5 * (2 * 32 + 3 * 64), 0]
    assert sizes("factors", strategy="global") == [0, 0]


def test_records_with_equal_keys_are_named(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_own(tmp_path / "own.jsonl", {}, {"prompt": "{} works as a"})
    _, found, text = checked(records, tiny_gpt2, tmp_path, "clients=1")
    assert found["shares"][0]["equal_keys"] == 1
    assert "1 records begin" in text

"""The commands ``fleke trace`` and ``fleke train-editor``, and what they make used by a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleke_flwr.apps.cli import execute
from fleke_flwr.artifacts import read_json
from fleke_flwr.state import EditState
from tests.apps.federation import write_records

FEW = ["covariance.tokens=1000", "contexts.count=1", "edit.steps=2", "evaluation.text-tokens=0"]


def test_a_trace_is_typed_and_its_layers_are_a_preset(
    tiny_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = tmp_path / "facts.jsonl"
    lines = [
        {"prompt": "{} lives in", "subject": "Mira Tolen"},
        {"prompt": "The home town of {} is", "subject": "Jonas Feld"},
    ]
    facts.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    given = ["trace", str(tiny_gpt2), "--data", str(facts), "--samples", "2", "--noise", "u3.0"]
    assert execute([*given, "-o", str(tmp_path / "trace")]) == 0
    assert "2 known facts traced" in capsys.readouterr().out
    content = read_json(tmp_path / "trace" / "trace.json")
    assert content["schema"] == 1
    assert (tmp_path / "trace" / "trace.html").is_file()


def test_a_trace_says_what_is_wrong(
    tiny_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["trace", str(tiny_gpt2), "--data", str(tmp_path / "none.jsonl")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_an_editor_is_trained_and_edits_what_it_has_not_seen(
    tiny_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = write_records(tmp_path / "records.jsonl", [20, 20])
    config = tmp_path / "tiny.toml"
    config.write_text('clients = 1\neditor = "malmen"\n[edit]\nlayers = "1,2"\n')
    given = [str(config), f"model={tiny_gpt2}", f"data.path={records}", *FEW]
    missing = ["edit", *given, f"cache-dir={tmp_path / 'cache'}"]
    assert execute(missing) == 1
    assert "fleke train-editor" in capsys.readouterr().err
    network = tmp_path / "network"
    small = "edits=4,judged=2,rank=4,validated=2,validation-share=0.2"
    asked = ["train-editor", *given, "-o", str(network), "--steps", "2", "--set", small]
    assert execute(asked) == 0
    output = tmp_path / "run"
    options = f"edit.options=network={network}"
    assert execute(["edit", *given, options, "--output", str(output)]) == 0
    row = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert 0 < row["edits"] < 40
    assert (row["editor"], row["mode"]) == ("malmen", "frozen")
    assert set(EditState.load(output / "edits.safetensors").updates) == {
        "transformer.h.1.mlp.c_proj",
        "transformer.h.2.mlp.c_proj",
    }

"""The commands without Flower: central edit, evaluation of saved edits, covariance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fleke_flwr.apps.cli import execute
from fleke_flwr.state import EditState
from tests.apps.federation import federation, run_config, write_records


@pytest.fixture
def settings(tiny_gpt2: Path, tmp_path: Path) -> list[str]:
    """Return a config file and overrides for a tiny model and eight records."""
    records = write_records(tmp_path / "records.jsonl", [4, 4])
    config = tmp_path / "tiny.toml"
    config.write_text("clients = 2\n")
    return [
        str(config),
        f"model={tiny_gpt2}",
        "model.dtype=float64",
        f"data.path={records}",
        f"cache-dir={tmp_path / 'cache'}",
        "covariance.tokens=2000",
        "edit.steps=4",
    ]


def _edit(settings: list[str], output: Path) -> dict[str, object]:
    assert execute(["edit", *settings, "--output", str(output)]) == 0
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_a_central_edit_is_what_the_bound_does(
    settings: list[str], tiny_gpt2: Path, tmp_path: Path
) -> None:
    row = _edit(settings, tmp_path / "central")
    assert (row["strategy"], row["edits"], row["clients"]) == ("central", 8, 1)
    assert (tmp_path / "central" / "report.html").is_file()
    records = tmp_path / "records.jsonl"
    config = run_config(
        tiny_gpt2,
        records,
        tmp_path,
        clients=2,
        mode="anticipated",
        strategy="global",
        data__partition="contiguous",
    )
    federation(config)[0].run()
    ours = EditState.load(tmp_path / "central" / "edits.safetensors")
    bound = EditState.load(tmp_path / "run" / "edits.safetensors")
    assert ours.base == bound.base
    for name, update in bound.updates.items():
        wanted = update.dense()
        difference = (ours.updates[name].dense().to(wanted.dtype) - wanted).norm() / wanted.norm()
        assert float(difference) < 1e-6


def test_saved_edits_are_measured_again(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = _edit(settings, tmp_path / "central")
    edits = tmp_path / "central" / "edits.safetensors"
    again = ["evaluate", *settings, "--edits", str(edits), "--output", str(tmp_path / "again")]
    assert execute(again) == 0
    judged = json.loads((tmp_path / "again" / "evaluation.json").read_text(encoding="utf-8"))
    for metric in ("efficacy_magnitude", "score", "neighborhood_magnitude"):
        assert judged["final"][metric] == pytest.approx(row["final"][metric], abs=1e-4)
    assert judged["base"] == row["base"]
    assert "central" in capsys.readouterr().out


def test_without_edits_the_base_model_is_measured(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["evaluate", *settings, "--output", str(tmp_path / "base")]) == 0
    judged = json.loads((tmp_path / "base" / "evaluation.json").read_text(encoding="utf-8"))
    assert judged["final"] == judged["base"]
    assert judged["edits"] == 0
    assert "unedited" in capsys.readouterr().out


def test_edits_of_another_model_are_refused(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    EditState("0123456789abcdef", 1, {}).save(tmp_path / "other.safetensors")
    given = ["evaluate", *settings, "--edits", str(tmp_path / "other.safetensors")]
    assert execute(given) == 1
    assert "made for base model 0123456789abcdef" in capsys.readouterr().err


def test_a_second_covariance_is_the_first_one(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["covariance", *settings]) == 0
    first = capsys.readouterr().out
    assert "ready: transformer.h.0.mlp.c_proj" in first
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert files
    # Within one process the factorised priors are kept as well; a new process has the files only.
    from fleke_flwr.apps import priors

    priors._KNOWN.clear()
    assert execute(["covariance", *settings]) == 0
    assert "reused" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_central_edit_leaves_the_model_as_it_was(
    settings: list[str], tiny_gpt2: Path, tmp_path: Path
) -> None:
    from fleke_flwr.config import ModelConfig
    from fleke_flwr.models.loading import load_model

    model = load_model(ModelConfig(name=str(tiny_gpt2), dtype="float64"))
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    _edit(settings, tmp_path / "central")
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, before[name]), name

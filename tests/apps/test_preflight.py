"""A mistake is found before Flower starts, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fleke_flwr.apps import jobs
from fleke_flwr.apps.cli import execute
from fleke_flwr.apps.preflight import read_config
from tests.apps.federation import write_records


@pytest.fixture
def given(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], Path]:
    """Return a good command line for six records and a directory to spoil."""

    def must_not_start(*args: object) -> None:
        raise AssertionError("Flower was started")

    monkeypatch.setattr(jobs, "simulate", must_not_start)
    records = write_records(tmp_path / "records.jsonl", [6])
    config = tmp_path / "tiny.toml"
    config.write_text("clients = 3\n")
    return [str(config), f"model={tiny_gpt2}", f"data.path={records}"], tmp_path


def _refused(command: list[str], directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert execute(["run", *command, "--output", str(directory / "out")]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    assert not (directory / "out").exists()
    return text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("strategy=colabedit", "Did you mean 'collabedit'?"),
        ("strategies=collabedit,tie", "Did you mean 'ties'?"),
        ("editor=memti", "Did you mean 'memit'?"),
        ("strategy=nowhere.at_all:Thing", "cannot be imported"),
        ("strategy=json:JSONDecoder", "is not a subclass of FederatedStrategy"),
        ("data.path=nowhere.jsonl", "nowhere.jsonl"),
        ("data.path=", "no records"),
        ("model=", "no model"),
        ("model=./nowhere", "no such directory"),
        ("data.edits=7", "holds 6 usable records and 7 edits are asked for"),
        ("editors=memit,pmt", "Did you mean 'pmet'?"),
        ("edit.options=l2=1", "unknown option 'l2'. Known: none."),
        ("editors=memit,alphaedit edit.options=l3=1", "Did you mean 'l2'?"),
        ("edit.layers=1,4", "has no layer 4: its layers are 0 to 3"),
        ("model=embedded edit.layers=9", "its layers are 0 to 5"),
        ("sweep.key=clients", "both sweep.key and sweep.values"),
        ("data.relations=r0,r9", "r9"),
        ("data.partition=one_relation", "3 clients"),
        ("data.partition=natural", "owner"),
        ("evaluation.idf=nowhere.txt evaluation.generate-every=1", "nowhere.txt"),
        ("clients=7", "6 records cannot be shared by 7 clients"),
        ("covariance.corpus=nowhere.txt", "covariance.corpus"),
        ("partition=iid", "unknown config key 'partition'"),
    ],
)
def test_a_wrong_setting(
    override: str,
    message: str,
    given: tuple[list[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, directory = given
    assert message in _refused([*command, *override.split()], directory, capsys)


def test_a_directory_that_is_no_model(
    given: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, directory = given
    (directory / "empty").mkdir()
    text = _refused([*command, f"model={directory / 'empty'}"], directory, capsys)
    assert "config.json, tokenizer.json, weights missing" in text


def test_a_broken_line_is_named(
    given: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, directory = given
    with (directory / "records.jsonl").open("a") as file:
        file.write('{"subject": "half a rec\n')
    assert "line 7" in _refused(command, directory, capsys)


@pytest.mark.parametrize(
    "record",
    [
        '{"subject": "Ada", "prompt": "Somebody lives in", "target": "Arlen"}',
        '{"subject": "Ada", "prompt": "{} lives in", "target": ""}',
    ],
)
def test_an_unusable_record_is_named(
    record: str, given: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, directory = given
    with (directory / "records.jsonl").open("a") as file:
        file.write(record + "\n")
    assert "line 7" in _refused(command, directory, capsys)


def test_a_sweep_asks_for_more_than_there_is(
    given: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, directory = given
    sweep = ["sweep.key=data.edits", "sweep.values=4,700"]
    text = _refused([*command, *sweep], directory, capsys)
    assert "700 edits are asked for" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there(
    given: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, directory = given
    assert "no CUDA device" in _refused([*command, "model.device=cuda"], directory, capsys)


def test_a_network_is_named_from_where_the_command_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_config("malmen", ["edit.options=network=nets/one,network-hash=ab"])
    assert found.edit.options == f"network={tmp_path / 'nets' / 'one'},network-hash=ab"
    assert read_config("demo", ["edit.options=equality=0.2"]).edit.options == "equality=0.2"


def test_what_cannot_be_edited_leaves_an_earlier_result(
    given: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, directory = given
    few = ["edit.steps=2", "covariance.tokens=300", f"cache-dir={directory / 'cache'}"]
    edit = ["edit", *command, *few, "--output", str(directory / "out")]
    assert execute([*edit, "data.edits=2"]) == 0
    kept = (directory / "out" / "edits.safetensors").read_bytes()
    capsys.readouterr()
    assert execute([*edit, "editor=ft"]) == 1
    assert "edit.learning-rate" in capsys.readouterr().err
    assert (directory / "out" / "edits.safetensors").read_bytes() == kept
    applied = ["apply", str(directory / "out" / "edits.safetensors"), "-o", str(directory / "new")]
    model = next(item.partition("=")[2] for item in command if item.startswith("model="))
    assert execute([*applied, "--model", model]) == 0


def test_a_place_that_cannot_be_written_is_named(
    given: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, directory = given
    (directory / "file").write_text("x", encoding="utf-8")
    assert execute(["edit", *command, "--output", str(directory / "file" / "out")]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Not a directory" in text

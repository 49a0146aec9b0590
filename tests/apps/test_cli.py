"""The command line: true exit codes, one line for every mistake, nothing half-written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fleke_flwr import world
from fleke_flwr.apps import jobs, preflight
from fleke_flwr.apps.cli import execute
from fleke_flwr.apps.processes import Ended
from fleke_flwr.apps.runner import Simulation
from fleke_flwr.apps.tables import amount, result_table
from fleke_flwr.apps.terminal import LiveProgress, PlainProgress, summary_tree
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import RunError
from fleke_flwr.progress import Progress
from tests.apps.rows import made_row, write_comparison

COMMANDS = ("run", "compare", "edit", "evaluate", "covariance", "report", "world")


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> list[Simulation]:
    """Replace the Flower run by one that writes made-up rows, and remember what was asked for."""
    asked: list[Simulation] = []

    def simulate(simulation: Simulation, directory: Path, progress: Progress) -> None:
        asked.append(simulation)
        (directory / "flower.log").touch()
        config = RunConfig.from_flat(simulation.run_config)
        rows = [made_row(name) for name in config.strategy_names]
        if len(rows) > 1:
            write_comparison(directory, rows)
        else:
            (directory / "metrics.json").write_text(json.dumps(rows[0]))
        progress.line("round 1/1 | edits 40")

    monkeypatch.setattr(jobs, "simulate", simulate)
    monkeypatch.setattr(preflight, "check", lambda config, federation: None)
    return asked


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('strategy = "collabedit"\nclients = 3\n[data]\nedits = 30\n')
    return path


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS), ["world", "train"]])
def test_every_command_has_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*arguments, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


def test_help_loads_no_heavy_module() -> None:
    code = (
        "import sys\n"
        "from fleke_flwr.apps.cli import execute\n"
        "assert execute(['compare', '--help']) == 0\n"
        "loaded = {'torch', 'flwr', 'ray', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(sorted(loaded)) if loaded else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_run_shows_the_table_and_the_report(
    flower: list[Simulation], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert execute(["run", str(config), "--output", str(output), "seed=5"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"collabedit\s+96\.8", shown)
    assert f"report: {output / 'report.html'}" in shown
    assert "round 1/1 | edits 40" in shown
    assert (output / "report.html").is_file()
    asked = RunConfig.from_flat(flower[0].run_config)
    assert (asked.seed, asked.clients, asked.data.edits) == (5, 3, 30)
    assert asked.output_dir == str(output)
    assert flower[0].clients == 3
    assert flower[0].gpus == 0


def test_compare_adds_the_bound_to_a_single_strategy(
    flower: list[Simulation], config: Path, tmp_path: Path
) -> None:
    assert execute(["compare", str(config), "--output", str(tmp_path / "out")]) == 0
    assert flower[0].run_config["strategies"] == "collabedit,global"
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["strategy"] for row in rows] == ["collabedit", "global"]


def test_compare_takes_the_strategies_it_is_given(
    flower: list[Simulation], config: Path, tmp_path: Path
) -> None:
    given = ["compare", str(config), "--strategies", "ties,global", "-o", str(tmp_path / "out")]
    assert execute(given) == 0
    assert flower[0].run_config["strategies"] == "ties,global"


def test_a_comparison_of_one_is_still_a_comparison(
    flower: list[Simulation], config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert execute(["compare", str(config), "--strategies", "global", "-o", str(output)]) == 0
    rows = json.loads((output / "comparison.json").read_text())["rows"]
    assert [row["strategy"] for row in rows] == ["global"]


def test_a_gpu_is_asked_for_when_the_model_needs_it(
    flower: list[Simulation], config: Path, tmp_path: Path
) -> None:
    assert execute(["run", str(config), "model.device=cuda:0", "-o", str(tmp_path / "out")]) == 0
    assert flower[0].gpus == 1


def test_paths_become_independent_of_the_working_directory(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    read = preflight.read_config(
        "mine.toml", ["model=model", "data.path=facts.jsonl", "covariance.corpus=text.txt"]
    )
    assert read.model.name == str(tmp_path / "model")
    assert read.data.path == str(tmp_path / "facts.jsonl")
    assert read.covariance.corpus == str(tmp_path / "text.txt")
    hub = preflight.read_config("mine.toml", ["model=openai-community/gpt2"])
    assert (hub.model.name, hub.data.path) == ("openai-community/gpt2", "embedded")


def test_a_failed_run_is_one_line_and_exit_code_1(
    flower: list[Simulation],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(simulation: Simulation, directory: Path, progress: Progress) -> None:
        raise RunError("2 of 3 clients sent NaN")

    monkeypatch.setattr(jobs, "simulate", fail)
    assert execute(["run", str(config), "-o", str(tmp_path / "out")]) == 1
    assert _error(capsys) == "error: 2 of 3 clients sent NaN\n"
    assert not (tmp_path / "out" / "report.html").exists()
    assert execute(["run", str(config), "-o", str(tmp_path / "out")], debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Ended(15), 143)])
def test_an_interrupted_run_says_so(
    stop: BaseException,
    code: int,
    flower: list[Simulation],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(simulation: Simulation, directory: Path, progress: Progress) -> None:
        raise stop

    monkeypatch.setattr(jobs, "simulate", interrupted)
    assert execute(["run", str(config), "-o", str(tmp_path / "out")]) == code
    assert "everything that was started has been ended" in _error(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nosuch"], "unknown experiment 'nosuch'"),
        (["run", "dmo"], "Did you mean 'demo'?"),
        (["run", "missing.toml"], "missing.toml: no such file"),
        (["run", "demo", "stategy=ties"], "Did you mean 'strategy'?"),
        (["run", "demo", "clients=many"], "clients = 'many': a number is needed"),
        (["run", "demo", "clients=1.5"], "int is needed"),
        (["run", "demo", "clients"], "write key=value"),
        (["run", "demo", "mode=joined"], "Did you mean 'joint'?"),
        (["report", "nowhere"], "neither comparison.json nor metrics.json"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(arguments) == 1
    assert message in _error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_training_passes_on_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, object] = {}

    def train_on_records(records: Path, output: Path, **options: object) -> None:
        asked.update(options, records=records, output=output)

    monkeypatch.setattr(world, "train_on_records", train_on_records, raising=False)
    given = ["world", "train", "--records", "facts.json", "--minutes", "2"]
    assert execute([*given, "--output", str(tmp_path / "model")]) == 0
    assert asked["records"] == Path("facts.json")
    assert asked["output"] == tmp_path / "model"
    assert asked["minutes"] == 2.0
    assert f"model: {tmp_path / 'model'}" in capsys.readouterr().out
    assert execute(["world", "train", "--text", "text.txt", "--output", str(tmp_path / "x")]) == 1
    assert "--text goes with --records" in _error(capsys)


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["bogus"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_results_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    for name in ("metrics.json", "done.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "variants").mkdir()
    assert preflight.prepare_directory(tmp_path, "x") == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_files_of_something_else_are_not_touched(
    flower: list[Simulation], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "metrics.json").write_text("{}")
    assert execute(["run", str(config), "-o", str(model)]) == 1
    assert "name another directory" in _error(capsys)
    assert execute(["run", str(config), "-o", str(config)]) == 1
    assert "is a file" in _error(capsys)
    assert (model / "metrics.json").read_text() == "{}"
    assert flower == []


def test_bars_grow_while_a_phase_runs_and_begin_again_after_it() -> None:
    with LiveProgress(Console(force_terminal=True, quiet=True)) as view:
        view.start("targets", 10)
        view.advance("targets", 4)
        view.start("targets", 5)
        bar = view._bars.tasks[0]
        assert (bar.completed, bar.total) == (4, 15)
        view.advance("targets", 11)
        view.start("targets", 7)
        assert (bar.completed, bar.total) == (0, 7)
        view.advance("unknown", 1)
        assert len(view._bars.tasks) == 1


def test_plain_lines_name_what_was_finished_and_what_was_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with PlainProgress(Console()) as view:
        view.start("nothing", 0)
        view.start("targets", 2)
        view.advance("targets", 2)
        view.start("evaluate", 8)
        view.advance("evaluate", 3)
        view.line("[round] 1/1")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"targets: 2 in \d+\.\d s", lines[0])
    assert lines[1:] == ["[round] 1/1", "evaluate: stopped at 3 of 8"]


def test_the_table_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        made_row(name, edits) for edits in (100, 2000) for name in ("task_arithmetic", "global")
    ]
    Console(width=80).print(result_table(rows))
    shown = capsys.readouterr().out
    assert "task_arithmetic" in shown
    assert "global (bound)" in shown
    assert "…" not in shown


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (2048, "2.0 KiB"), (883_200, "862 KiB"), (3.2e9, "3.0 GiB")],
)
def test_bytes_are_readable(size: float, text: str) -> None:
    assert amount(size) == text


def test_the_summary_names_what_will_run(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=100).print(summary_tree(RunConfig(strategies="ties,global"), "out"))
    shown = capsys.readouterr().out
    for part in ("ties, global", "memit, mode anticipated", "all of embedded, iid", "output: out"):
        assert part in shown


def test_export_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert execute(["export", str(tmp_path), "--format", "onnx", "-o", str(tmp_path / "o")]) == 1
    assert capsys.readouterr().err == "error: --format 'onnx': choose from hf, peft, edits\n"


def test_check_has_an_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert execute(["check", str(tmp_path / "none.jsonl")]) == 1
    assert "no such file" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run"], "no config"),
        (["run", "--resume", "nowhere", "--federation", "lab"], "takes directory and federation"),
        (["run", "--resume", "nowhere"], "holds no run.json"),
        (["run", "demo", "--federation", "lab"], "does not exist; set FLWR_HOME"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(
    words: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert execute(words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert reason in said

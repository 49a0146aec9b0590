"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
import typer

from fleke_flwr.apps.cli import application
from fleke_flwr.apps.preflight import read_config
from fleke_flwr.config import RunConfig
from fleke_flwr.state import EditState
from fleke_flwr.strategies import STRATEGIES
from fleke_flwr.types import EditPayload, LayerUpdate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _commands(program: str) -> list[list[str]]:
    text = "".join(_blocks("sh"))
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    found = [words[1:] if "=" in words[0] else words for words in lines if words]
    return [words[1:] for words in found if words[0] == program]


def test_the_readme_shows_commands_and_a_picture() -> None:
    assert len(_commands("fleke")) >= 7
    assert len(_commands("make")) == 2
    for picture in re.findall(r'(?:src|srcset)="([^"]*)"', README):
        assert (ROOT / picture).is_file(), picture


@pytest.mark.parametrize("words", _commands("fleke"), ids=" ".join)
def test_a_command_is_understood(words: list[str]) -> None:
    command: click.Command = typer.main.get_command(application)
    context = click.Context(command, info_name="fleke")
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
    context = command.make_context(name, words)
    if context.params.get("config") is not None:
        config = read_config(context.params["config"], context.params["overrides"] or [])
        for strategy in config.strategy_names:
            assert STRATEGIES.get(strategy)


def test_the_commands_of_the_table_exist() -> None:
    known = typer.main.get_command(application).commands
    named = set(re.findall(r"`fleke ([\w-]+)", README))
    assert named == set(known)


def test_make_knows_the_targets() -> None:
    for words in _commands("make"):
        result = subprocess.run(
            ["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr


def test_the_keys_given_to_flwr_run_exist() -> None:
    (words,) = _commands("flwr")
    pairs = words[words.index("--run-config") + 1].split()
    assert {pair.split("=")[0] for pair in pairs} <= set(RunConfig().to_flat())


def test_the_strategies_of_the_table_are_the_registered_ones() -> None:
    table = README.split("## Methods")[1].split("| `mode` |")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == set(STRATEGIES.names())


def test_the_example_strategy_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = _blocks("python")
    assert code.count("\n") <= 25
    (tmp_path / "readme_median.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    kind = STRATEGIES.get("readme_median:Median")
    payloads = [
        EditPayload(
            base="b",
            state="s",
            editor="memit",
            mode="joint",
            num_edits=1,
            updates={"layer": LayerUpdate(torch.full((2, 3), value))},
        )
        for value in (1.0, 2.0, 9.0)
    ]
    merged = kind.merge(object.__new__(kind), payloads, EditState("b"))
    assert torch.equal(merged["layer"].dense(), torch.full((2, 3), 2.0))
    sys.modules.pop("readme_median")


@pytest.mark.slow
def test_the_first_command_of_the_readme_prints_its_table(tmp_path: Path) -> None:
    """Run what ``make demo`` runs, cut to a few edits so that it takes seconds."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    words = re.search(r"bin/fleke (compare .*)", makefile).group(1).split()
    settings = ["clients=2", "data.edits=8", "edit.steps=3", "covariance.tokens=2000"]
    command = [sys.executable, "-c", "from fleke_flwr.apps.cli import main; main()"]
    result = subprocess.run(
        [*command, *words, *settings, f"cache-dir={tmp_path}", "-o", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for name in read_config("demo", []).strategy_names:
        assert re.search(rf"^{name}( \(bound\))?\s+\d", result.stdout, flags=re.MULTILINE), name
    assert f"report: {tmp_path / 'out' / 'report.html'}" in result.stdout

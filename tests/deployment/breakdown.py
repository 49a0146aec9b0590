"""Federations that something happens to, and what their runs must come to all the same."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fleke_flwr.artifacts import read_json
from fleke_flwr.state import EditState
from tests.deployment.network import FLEKE, Network

SETTINGS = (
    "rounds=3",
    "mode=joint",
    "memory=statistics",
    "contexts.count=1",
    "covariance.tokens=2000",
    "edit.steps=3",
    "evaluation.every=0",
    "evaluation.text-tokens=0",
    "data.slot-order=file",
    "data.path=",
)


def write_edits(path: Path, owner: int, count: int) -> Path:
    """Write the edits of one hospital."""
    lines = [
        {
            "prompt": "{} works as a",
            "subject": f"Patient{owner} Number{place}",
            "target": ["baker", "miner", "singer"][place % 3],
        }
        for place in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@contextmanager
def two_hospitals(folder: Path) -> Iterator[Network]:
    """Start a federation of two nodes whose SuperLink survives its restart."""
    records = [write_edits(folder / f"edits-{owner}.jsonl", owner, 6) for owner in range(2)]
    with Network(folder / "lab", records, database=True) as network:
        yield network


def run_undisturbed(network: Network, run: Path) -> Path:
    """Return what becomes of a run that nothing happens to."""
    code, said = network.run("collabedit", *SETTINGS, output=run)
    assert code == 0, said
    return run


class Running:
    """A run that goes on in the background."""

    def __init__(self, network: Network, command: list[str], run: Path) -> None:
        self.run = run
        self._process = subprocess.Popen(
            command,
            env=network.environment,
            cwd=network.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, text: str, seconds: float = 240.0) -> None:
        """Wait until the run has said something."""
        deadline = time.monotonic() + seconds
        events = self.run / "events.jsonl"
        while not (events.is_file() and text in events.read_text(encoding="utf-8")):
            assert self._process.poll() is None, self._process.communicate()[0]
            assert time.monotonic() < deadline, f"never said {text!r}"
            time.sleep(0.1)

    def end(self, seconds: float = 400.0) -> tuple[int, str]:
        """Return exit code and output."""
        output, _ = self._process.communicate(timeout=seconds)
        return self._process.returncode, output


def started(network: Network, run: Path, *overrides: str) -> Running:
    """Start a run."""
    command = network.command("collabedit", *SETTINGS, *overrides, output=run)
    return Running(network, command, run)


def resumed(network: Network, run: Path, *overrides: str) -> tuple[int, str]:
    """Go on with a run, to its end."""
    (run / "events.jsonl").unlink(missing_ok=True)
    words = [FLEKE, "run", "--resume", str(run), *overrides]
    return Running(network, words, run).end()


def edits(run: Path) -> dict[str, torch.Tensor]:
    """Return what a run has written into the model, by module."""
    state = EditState.load(run / "edits.safetensors")
    return {module: update.dense() for module, update in state.updates.items()}


def assert_equal(run: Path, undisturbed: Path, tolerance: float = 1e-6) -> None:
    """Check that a run has written the same as another."""
    found, expected = edits(run), edits(undisturbed)
    for module, change in expected.items():
        error = (found[module] - change).norm() / change.norm()
        assert error < tolerance, (module, float(error))


def assert_same(run: Path, undisturbed: Path) -> None:
    """Check that a run ended as another did, with all edits in every round."""
    assert_equal(run, undisturbed)
    rows = [read_json(folder / "metrics.json") for folder in (run, undisturbed)]
    assert rows[0]["final"] == rows[1]["final"]
    assert [line["edits"] for line in rows[0]["history"]] == [4, 4, 4]

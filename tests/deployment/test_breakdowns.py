"""Real processes are killed by their ids in the middle of a run; nothing that was merged is lost.

One federation of two hospitals and a late third lives through everything in turn, since each
message starts a process that has to load torch.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fleke_flwr.artifacts import read_json, read_tensors, write_tensors
from fleke_flwr.state import EditState
from tests.deployment.network import FLEKE, Network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

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


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("breakdowns")
    records = [write_edits(folder / f"edits-{owner}.jsonl", owner, 6) for owner in range(2)]
    with Network(folder / "lab", records, database=True) as network:
        yield network


@pytest.fixture(scope="module")
def undisturbed(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
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
    command = network.command("collabedit", *SETTINGS, *overrides, output=run)
    return Running(network, command, run)


def resumed(network: Network, run: Path, *overrides: str) -> tuple[int, str]:
    (run / "events.jsonl").unlink(missing_ok=True)
    words = [FLEKE, "run", "--resume", str(run), *overrides]
    return Running(network, words, run).end()


def edits(run: Path) -> dict[str, torch.Tensor]:
    state = EditState.load(run / "edits.safetensors")
    return {module: update.dense() for module, update in state.updates.items()}


def assert_equal(run: Path, undisturbed: Path, tolerance: float = 1e-6) -> None:
    found, expected = edits(run), edits(undisturbed)
    for module, change in expected.items():
        error = (found[module] - change).norm() / change.norm()
        assert error < tolerance, (module, float(error))


def assert_same(run: Path, undisturbed: Path) -> None:
    assert_equal(run, undisturbed)
    rows = [read_json(folder / "metrics.json") for folder in (run, undisturbed)]
    assert rows[0]["final"] == rows[1]["final"]
    assert [line["edits"] for line in rows[0]["history"]] == [4, 4, 4]


def kill_serverapp(network: Network) -> None:
    killed = 0
    for process in network.members("superlink"):
        if any("flwr-serverapp" in word for word in process.cmdline()):
            process.kill()
            killed += 1
    assert killed


def test_a_killed_serverapp_is_noticed_and_the_run_resumed(
    network: Network, undisturbed: Path, tmp_path: Path
) -> None:
    running = started(network, tmp_path / "run")
    running.wait_for("edit, round 2")
    kill_serverapp(network)
    code, output = running.end()
    assert code == 1, output
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    code, output = resumed(network, tmp_path / "run")
    assert code == 0, output
    assert_same(tmp_path / "run", undisturbed)


def test_a_killed_superlink_is_started_again_and_the_run_resumed(
    network: Network, undisturbed: Path, tmp_path: Path
) -> None:
    running = started(network, tmp_path / "run")
    running.wait_for("edit, round 3")
    network.kill_superlink()
    code, output = running.end()
    assert code == 1, output
    network.start_superlink()
    network.wait_online(2)
    code, output = resumed(network, tmp_path / "run")
    assert code == 0, output
    assert_same(tmp_path / "run", undisturbed)


def test_a_killed_node_is_left_out_and_comes_back_with_what_it_missed(
    network: Network, undisturbed: Path, tmp_path: Path
) -> None:
    running = started(network, tmp_path / "run", "min-clients=1", "timeout=120")
    running.wait_for("edit, round 1")
    network.kill_node(1)
    running.wait_for("client 1 is left out")
    network.restart_node(1)
    code, output = running.end()
    assert code == 0, output
    history = read_json(tmp_path / "run" / "metrics.json")["history"]
    assert list(history[0]["left_out"]) == ["1"]
    assert history[0]["edits"] == 2
    assert sum(line["edits"] for line in history) == 12
    # Target vectors that are optimised in another company of edits differ by float32 rounding.
    assert_equal(tmp_path / "run", undisturbed, tolerance=1e-4)


def test_too_few_nodes_end_the_run_which_goes_on_when_they_are_back(
    network: Network, undisturbed: Path, tmp_path: Path
) -> None:
    running = started(network, tmp_path / "run", "timeout=30")
    running.wait_for("edit, round 2")
    network.kill_node(1)
    code, output = running.end()
    assert code == 1
    assert "1 good replies of 2, 2 are needed" in output.replace("\n", " ")
    assert "--resume" in output
    network.restart_node(1)
    network.wait_online(2)
    code, output = resumed(network, tmp_path / "run")
    assert code == 0, output
    assert_same(tmp_path / "run", undisturbed)


def another_base(network: Network, folder: Path) -> None:
    model = network.directory / network.name(1) / "model"
    tensors, _ = read_tensors(model / "model.safetensors")
    name = next(iter(tensors))
    write_tensors(model / "model.safetensors", {**tensors, name: tensors[name] + 0.5})


def another_version(network: Network, folder: Path) -> None:
    """Let the node's processes find a fleke-flwr that calls itself older."""
    lines = ["import fleke_flwr", "fleke_flwr.__version__ = '0.0.1'", ""]
    (folder / "sitecustomize.py").write_text("\n".join(lines), encoding="utf-8")
    known = network.environment.get("PYTHONPATH", "")
    network.environment["PYTHONPATH"] = f"{folder}:{known}"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (another_version, "runs fleke-flwr 0.0.1"),
        (another_base, "holds another base model"),
    ],
)
def test_a_node_that_does_not_fit_is_named_and_left_out(
    network: Network,
    tmp_path: Path,
    spoil: Callable[[Network, Path], None],
    reason: str,
) -> None:
    network.kill_node(1)
    known = network.environment.get("PYTHONPATH", "")
    spoil(network, tmp_path)
    network.restart_node(1)
    network.environment["PYTHONPATH"] = known
    network.wait_online(2)
    code, output = started(network, tmp_path / "run", "min-clients=1", "rounds=1").end()
    assert code == 0, output
    assert reason in output.replace("\n", " ")
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert [client["client"] for client in manifest["clients"]] == [0]
    assert reason in manifest["refused"][0]

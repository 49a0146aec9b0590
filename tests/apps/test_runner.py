"""The runner starts Flower, tells the truth about how it ended, and leaves no process behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fleke_flwr.apps.processes import MARK
from fleke_flwr.apps.runner import CLIENT_APP, SERVER_APP, Simulation, simulate, write_app
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import RunError

_STUB = """
import json, os, time
from pathlib import Path
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from fleke_flwr.progress import EventFile

server = ServerApp()
client = ClientApp()

@client.query("describe")
def describe(message, context):
    place = MetricRecord({"partition": context.node_config["partition-id"]})
    return Message(RecordDict({"place": place}), reply_to=message)

@server.main()
def main(grid, context):
    out = Path(context.run_config["output-dir"])
    events = EventFile(out / "events.jsonl")
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.05)
    orders = [Message(RecordDict(), node, "query.describe") for node in nodes]
    places = sorted(m.content["place"]["partition"] for m in grid.send_and_receive(orders))
    events.line(f"partitions {places}")
    ending = context.run_config["stub.ending"]
    if ending == "crash":
        raise RuntimeError("the stub has crashed")
    if ending == "explain":
        (out / "failure.json").write_text(json.dumps({"error": "clients 0 and 2 sent NaN"}))
        raise RuntimeError("explained elsewhere")
    if ending == "hang":
        time.sleep(600)
    (out / "done.json").write_text("{}")
"""
_HANGING_RUN = """
import sys
from pathlib import Path
from fleke_flwr.apps.runner import Simulation, simulate
from fleke_flwr.progress import Silent
out = Path(sys.argv[1])
simulate(
    Simulation({"output-dir": str(out), "stub.ending": "hang"}, 3,
               server_app="stub_flower_app:server", client_app="stub_flower_app:client"),
    out, Silent(),
)
"""


class Lines:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def start(self, phase: str, total: int) -> None:
        self.texts.append(f"{phase} {total}")

    def advance(self, phase: str, amount: int = 1) -> None:
        self.texts.append(f"{phase} +{amount}")

    def line(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the stub app importable for Flower's processes and return an output directory."""
    (tmp_path / "stub_flower_app.py").write_text(_STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    output = tmp_path / "output"
    output.mkdir()
    yield output
    assert _marked(tmp_path) == set(), "processes were left behind"


def _marked(folder: Path) -> set[int]:
    """Return the processes of runs of this test: others may run beside it."""
    found = set()
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            ours = str(folder) in environment.get("PYTHONPATH", "")
            if process.status() != psutil.STATUS_ZOMBIE and MARK in environment and ours:
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def _simulation(output: Path, ending: str) -> Simulation:
    return Simulation(
        {"output-dir": str(output), "stub.ending": ending},
        clients=3,
        server_app="stub_flower_app:server",
        client_app="stub_flower_app:client",
    )


def test_the_app_directory_carries_every_key_and_no_code(tmp_path: Path) -> None:
    config = RunConfig(clients=3, seed=7).to_flat()
    app = write_app(Simulation(config, 3), tmp_path / "app")
    content = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert RunConfig.from_flat(_flat(content["config"])).to_flat() == config
    assert content["components"] == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    assert list(app.rglob("*.py")) == []


def _flat(nested: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@pytest.mark.slow
def test_a_good_run_ends_well(stub: Path) -> None:
    seen = Lines()
    simulate(_simulation(stub, "well"), stub, seen)
    assert seen.texts == ["partitions [0, 1, 2]"]
    assert (stub / "flower.log").stat().st_size > 0


@pytest.mark.slow
def test_a_crash_is_an_error_although_flower_says_zero(stub: Path) -> None:
    with pytest.raises(RunError, match=r"failed.*the stub has crashed.*flower\.log"):
        simulate(_simulation(stub, "crash"), stub, Lines())


@pytest.mark.slow
def test_an_explained_failure_is_passed_on(stub: Path) -> None:
    with pytest.raises(RunError, match=r"clients 0 and 2 sent NaN.*flower\.log"):
        simulate(_simulation(stub, "explain"), stub, Lines())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process(stub: Path, number: signal.Signals) -> None:
    run = subprocess.Popen([sys.executable, "-c", _HANGING_RUN, str(stub)])
    deadline = time.monotonic() + 120
    while not (stub / "events.jsonl").is_file():
        assert run.poll() is None
        assert time.monotonic() < deadline, (stub / "flower.log").read_text()
        time.sleep(0.1)
    assert json.loads((stub / "events.jsonl").read_text().splitlines()[0])["event"] == "line"
    assert len(_marked(stub.parent)) > 3
    run.send_signal(number)
    assert run.wait(timeout=60) != 0

"""Three SuperNodes with TLS and authentication: the simulation's results, and nobody uninvited."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleke_flwr.apps.deploying.credentials import new_authority, new_identity
from fleke_flwr.artifacts import read_json
from fleke_flwr.state import EditState
from tests.deployment.network import FLEKE, Network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = (
    "strategies=collabedit,fededit", "clients=3", "data.edits=9", "covariance.tokens=2000",
    "evaluation.every=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the clients' record files, as ``fleke partition`` deals them."""
    folder = tmp_path_factory.mktemp("parts")
    command = [FLEKE, "partition", "collabedit", *SETTINGS, "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def network(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    root = tmp_path_factory.mktemp("deployment") / "hospitals"
    with Network(root, [parts / f"client-{client}.jsonl" for client in range(3)]) as network:
        yield network


def assert_equal(here: Path, there: Path) -> None:
    """Compare two saved edits to a relative 1e-6."""
    one, other = EditState.load(here), EditState.load(there)
    assert set(one.updates) == set(other.updates) != set()
    for name, update in one.updates.items():
        expected = update.dense().double()
        difference = (other.updates[name].dense().double() - expected).norm()
        assert difference <= 1e-6 * expected.norm()


def test_results_equal_the_simulation_s(network: Network, parts: Path, tmp_path: Path) -> None:
    simulated, deployed = tmp_path / "simulated", tmp_path / "deployed"
    subprocess.run(
        [FLEKE, "run", "collabedit", *SETTINGS, "--output", str(simulated)],
        env=network.environment, check=True, capture_output=True,
    )  # fmt: skip
    # The records are the nodes'; the server has none.
    code, said = network.run("collabedit", *SETTINGS, "data.path=", output=deployed)
    assert code == 0, said
    assert f"report: {deployed / 'report.html'}" in said
    (collabedit,) = deployed.glob("variants/*/edits.safetensors")
    assert_equal(simulated / collabedit.relative_to(deployed), collabedit)
    personal = sorted(simulated.glob("personal/*/client-*.safetensors"))
    assert len(personal) == 3
    for client, path in enumerate(personal):
        assert_equal(path, network.results(client) / path.relative_to(simulated))
    # A node keeps its own model to itself.
    assert not (deployed / "personal").exists()
    rows = [read_json(place / "comparison.json")["rows"] for place in (simulated, deployed)]
    for here, there in zip(*rows, strict=True):
        assert here["edits"] == there["edits"] == 9
        assert here["final"] == pytest.approx(there["final"], abs=1e-3)


def test_a_run_that_cannot_work_ends_with_its_reason(network: Network, tmp_path: Path) -> None:
    settings = ("clients=4", "join-timeout=3", "data.path=")
    code, said = network.run("collabedit", *settings, output=tmp_path / "run")
    assert code == 1
    assert said.splitlines()[-1].startswith("error: 3 of 4 clients connected within 3 s")


def test_ctrl_c_stops_the_run_on_the_superlink(network: Network, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = network.start_run("collabedit", *SETTINGS, "data.path=", output=output)
    deadline = time.monotonic() + 300
    while not (output / "events.jsonl").is_file():
        assert run.poll() is None, network.log("run").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    said = network.log("run").read_text()
    number = said.split("run ", 1)[1].split()[0]
    (stopped,) = network.flwr("list", "--run-id", number)["runs"]
    assert stopped["status"] == "finished:stopped"
    assert not (output / "done.json").exists()


def test_nobody_uninvited_comes_online(network: Network, tmp_path: Path) -> None:
    config = {"partition-id": 0, "num-partitions": 3}
    stranger, other = tmp_path / "stranger.key", tmp_path / "other.crt"
    stranger.write_bytes(new_identity("stranger").private)
    other.write_bytes(new_authority("another").public)
    authority = str(network.directory / "ca.crt")
    invited = str(network.directory / network.name(0) / "node.key")
    network.kill_node(0)
    known = ["--auth-supernode-private-key", invited]
    unknown = ["--auth-supernode-private-key", str(stranger)]
    intruders = {
        "unregistered": ["--root-certificates", authority, *unknown],
        "without a key": ["--root-certificates", authority],
        "without TLS": ["--insecure"],
        "with another authority": ["--root-certificates", str(other), *known],
    }
    for name, trust in intruders.items():
        network.start_supernode(name, network.address, trust, config)
    for name in intruders:
        deadline = time.monotonic() + 120
        while "Starting Flower SuperNode" not in network.log(name).read_text():
            assert time.monotonic() < deadline, name
            time.sleep(0.2)
    # Longer than an invited node needs, which is then the proof that it was long enough.
    time.sleep(10)
    network.start_node(0)
    network.wait_online(3)
    assert network.online() == 3, json.dumps(network.flwr("supernode", "list"))

"""Nodes are killed by their ids, come back, or do not fit; nothing that was merged is lost.

One federation of two hospitals lives through everything in turn, since each message starts a
process that has to load torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleke_flwr.artifacts import read_json, read_tensors, write_tensors
from tests.deployment.breakdown import (
    assert_equal,
    assert_same,
    resumed,
    run_undisturbed,
    started,
    two_hospitals,
)
from tests.deployment.network import Network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with two_hospitals(tmp_path_factory.mktemp("breakdowns")) as network:
        yield network


@pytest.fixture(scope="module")
def undisturbed(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_undisturbed(network, tmp_path_factory.mktemp("undisturbed") / "run")


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

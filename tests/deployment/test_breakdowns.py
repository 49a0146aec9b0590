"""The server's processes are killed by their ids in the middle of a run; nothing merged is lost.

One federation of two hospitals lives through everything in turn, since each message starts a
process that has to load torch. What happens to nodes is in another
file, for another process of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.breakdown import (
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

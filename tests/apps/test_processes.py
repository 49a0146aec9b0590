"""Every process of a run is found and ended, also one that has detached itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fleke_flwr.apps.processes import Ended, ProcessGroup, ending

_LEAVES_AN_ORPHAN = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
"""
_IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(300)
"""


def _wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def group(tmp_path: Path) -> ProcessGroup:
    return ProcessGroup(str(tmp_path), os.environ)


def test_an_orphan_in_another_session_is_ended(group: ProcessGroup, tmp_path: Path) -> None:
    with ending(group):
        parent = group.start([sys.executable, "-c", _LEAVES_AN_ORPHAN], tmp_path / "log", tmp_path)
        parent.wait()
        _wait_for(lambda: len(group.members()) == 1)
        orphan = group.members()[0]
        assert orphan.pid != parent.pid
    assert group.members() == []
    assert not psutil.pid_exists(orphan.pid) or orphan.status() == psutil.STATUS_ZOMBIE


def test_a_process_deaf_to_sigterm_is_killed(group: ProcessGroup, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ending(group):
        deaf = group.start([sys.executable, "-c", _IGNORES_SIGTERM], log, tmp_path)
        _wait_for(lambda: "ready" in log.read_text())
    assert deaf.returncode == -signal.SIGKILL


def test_ending_happens_when_the_block_raises(group: ProcessGroup, tmp_path: Path) -> None:
    def fail_inside() -> None:
        with ending(group):
            group.start(["sleep", "300"], tmp_path / "log", tmp_path)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert group.members() == []


def test_sigterm_ends_the_block_with_its_exit_code(group: ProcessGroup, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stopped_inside() -> None:
        with ending(group):
            group.start(["sleep", "300"], tmp_path / "log", tmp_path)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(Ended) as caught:
        stopped_inside()
    assert caught.value.exit_code == 143
    assert group.members() == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_nohup_is_respected(group: ProcessGroup, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending(group):
            sleeper = group.start(["sleep", "300"], tmp_path / "log", tmp_path)
            os.kill(os.getpid(), signal.SIGHUP)
            assert sleeper.poll() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_of_another_run_is_left_alone(group: ProcessGroup, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "300"])
    try:
        with ending(group):
            group.start(["sleep", "300"], tmp_path / "log", tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()

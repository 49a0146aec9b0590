"""Flower's commands are found beside its package and find this package in turn."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

import fleke_flwr
from fleke_flwr.apps.flower import command_path, flower_environment, free_port
from fleke_flwr.errors import RunError


def test_commands_are_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name in ("flwr", "flower-superlink", "flower-supernode"):
        assert os.access(command_path(name), os.X_OK)


def test_a_missing_command_is_named() -> None:
    with pytest.raises(RunError, match=r"'flower-teapot' is not found; install flwr"):
        command_path("flower-teapot")


def test_the_environment_leads_to_flower_s_helpers_and_to_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", f"mine{os.pathsep}")
    monkeypatch.chdir(tmp_path)
    environment = flower_environment()
    assert environment["PATH"].split(os.pathsep) == [
        str(Path(command_path("flower-superexec")).parent), "/nowhere",
    ]  # fmt: skip
    package_root = str(Path(fleke_flwr.__file__).resolve().parents[1])
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "mine"), package_root]
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    found = subprocess.run(
        ["python3", "-c", "import fleke_flwr; print(fleke_flwr.__file__)"],
        env={**environment, "PATH": os.environ["PATH"] + os.pathsep + os.defpath},
        cwd="/", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).resolve() == Path(fleke_flwr.__file__).resolve()


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 1023

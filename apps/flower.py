"""Flower's own commands: where they are, and in which environment they are started."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import fleke_flwr
from fleke_flwr.errors import RunError

QUIET = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
}


def command_path(name: str) -> str:
    """Return the path of one of Flower's commands, looking beside its package first.

    Raises
    ------
    RunError
        If it is not installed.
    """
    places = [str(Path(sys.executable).parent)]
    try:
        flower = distribution("flwr")
        places += [
            str(Path(str(flower.locate_file(file))).resolve().parent)
            for file in flower.files or ()
            if file.name == name and "site-packages" not in file.parts
        ]
    except PackageNotFoundError:
        pass
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    if found is None:
        raise RunError(f"Flower's command {name!r} is not found; install flwr[simulation]")
    return found


def flower_environment() -> dict[str, str]:
    """Return this process's environment, in which Flower finds its helpers and this package."""
    environment = {**os.environ, **QUIET}
    environment["PATH"] = os.pathsep.join(
        [str(Path(command_path("flwr")).parent), environment.get("PATH", os.defpath)]
    )
    # Flower's commands may belong to another environment than the one this package is found in.
    package_root = str(Path(fleke_flwr.__file__).resolve().parent.parent)
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Made absolute, since the processes run in another directory.
    paths = [*(str(Path(path).resolve()) for path in given), package_root]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

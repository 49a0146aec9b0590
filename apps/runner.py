"""Start the Flower app in simulation, follow it, and end everything that was started.

The app is submitted with Flower's own commands to a SuperLink of its own, on a free port and with a
throw-away ``FLWR_HOME``, so that it is what ``flwr run`` starts and no earlier SuperLink, working
directory or environment has a say. Flower's exit code and run status do not tell whether a run has
succeeded; the files that the ServerApp writes last do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w

import fleke_flwr
from fleke_flwr.apps.events import EventReader
from fleke_flwr.apps.flower import command_path, flower_environment, free_port
from fleke_flwr.apps.processes import ProcessGroup, ending
from fleke_flwr.errors import RunError
from fleke_flwr.progress import Progress

SERVER_APP = "fleke_flwr.apps.server_app:app"
CLIENT_APP = "fleke_flwr.apps.client_app:app"
_SUPERLINK_SECONDS = 60.0
_POLL_SECONDS = 0.05
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray would run its workers behind everything else on the machine.
    "RAY_worker_niceness": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


@dataclass(frozen=True)
class Simulation:
    """What is to be run, and on what.

    Parameters
    ----------
    run_config : dict[str, bool | int | float | str]
        Flower's run config, dotted keys.
    clients : int
        Number of simulated SuperNodes.
    gpus : int
        How many the client process needs.
    server_app, client_app : str
        The components, ``package.module:attribute``.
    """

    run_config: dict[str, bool | int | float | str]
    clients: int
    gpus: int = 0
    server_app: str = SERVER_APP
    client_app: str = CLIENT_APP


def simulate(simulation: Simulation, directory: Path, progress: Progress) -> None:
    """Run the Flower app and return when its results are complete.

    Parameters
    ----------
    simulation : Simulation
        What to run; its ``output-dir`` must be ``directory``.
    directory : Path
        Where the ServerApp writes; ``flower.log`` is added.
    progress : Progress
        Is told what the app reports.

    Raises
    ------
    RunError
        If the app ended with an error of its own, or without results.
    """
    log = directory / "flower.log"
    with _home() as home:
        port = free_port()
        app = write_app(simulation, home / "app")
        (home / "config.toml").write_text(_connection(port), encoding="utf-8")
        with ending(ProcessGroup(str(home), _environment(home))) as group:
            superlink = group.start(_superlink_command(port), log, home)
            _await_health(port, superlink, log)
            run = group.start(_run_command(app, simulation), log, home)
            _follow(directory, run, progress)
            if not (directory / "done.json").is_file():
                raise RunError(_why(directory, group, log))


def write_app(simulation: Simulation, directory: Path) -> Path:
    """Write a Flower app without code: its components come from the installed package."""
    directory.mkdir(parents=True)
    config: dict[str, object] = {}
    for key, value in simulation.run_config.items():
        *sections, leaf = key.split(".")
        target = config
        for section in sections:
            target = target.setdefault(section, {})  # type: ignore[assignment]  # nested tables
        target[leaf] = value
    app = {
        "publisher": "fleke",
        "fab-include": ["/README.md"],
        "components": {"serverapp": simulation.server_app, "clientapp": simulation.client_app},
        "config": config,
    }
    project = {
        "name": "fleke-run",
        "version": fleke_flwr.__version__,
        "description": "One run of fleke-flwr",
        "license": "Apache-2.0",
        "dependencies": [],
    }
    (directory / "README.md").write_text("One run of fleke-flwr.\n", encoding="utf-8")
    content = tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    (directory / "pyproject.toml").write_text(content, encoding="utf-8")
    return directory


def _follow(directory: Path, run: subprocess.Popen[bytes], progress: Progress) -> None:
    events = EventReader(directory / "events.jsonl")
    ends = (directory / "done.json", directory / "failure.json")
    while True:
        # Looked at before the last reading of events, so that none of them is missed.
        finished = run.poll() is not None or any(end.is_file() for end in ends)
        events.forward(progress)
        if finished:
            return
        time.sleep(_POLL_SECONDS)


def _why(directory: Path, group: ProcessGroup, log: Path) -> str:
    failure = directory / "failure.json"
    if failure.is_file():
        return f"{json.loads(failure.read_text(encoding='utf-8'))['error']} (log: {log})"
    listing = subprocess.run(
        [command_path("flwr"), "list", "own", "--format", "json"],
        env=group.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        run = json.loads(listing.stdout)["runs"][0]
        status = f"{run['status']}, {run.get('status-details') or 'no details'}"
    except (json.JSONDecodeError, KeyError, IndexError):
        status = "not started"
    return f"the Flower run ended without results ({status}); see {log}"


@contextmanager
def _home() -> Iterator[Path]:
    # Ray puts sockets here, whose paths may have 107 characters: short beats TMPDIR.
    short = "/tmp" if os.access("/tmp", os.W_OK) else None
    home = Path(tempfile.mkdtemp(prefix="fleke-", dir=short))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _environment(home: Path) -> dict[str, str]:
    return {**flower_environment(), **_RAY, "FLWR_HOME": str(home), "RAY_TMPDIR": str(home)}


def _superlink_command(port: int) -> list[str]:
    return [
        command_path("flower-superlink"),
        "--insecure",
        "--simulation",
        "--isolation",
        "subprocess",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--disable-runtime-dependency-installation",
    ]


def _run_command(app: Path, simulation: Simulation) -> list[str]:
    # One client process with every core: one copy of the model, and threads instead of processes.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    resources = {
        "num-supernodes": simulation.clients,
        "client-resources-num-cpus": cores or 1,
        "client-resources-num-gpus": float(simulation.gpus),
        "init-args-num-cpus": cores or 1,
    }
    sizes = " ".join(f"{key}={value}" for key, value in resources.items())
    return [command_path("flwr"), "run", str(app), "own", "--federation-config", sizes, "--stream"]


def _connection(port: int) -> str:
    own = {"address": f"127.0.0.1:{port}", "insecure": True}
    return tomli_w.dumps({"superlink": {"default": "own", "own": own}})


def _await_health(port: int, superlink: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SUPERLINK_SECONDS
    while time.monotonic() < deadline:
        if superlink.poll() is not None:
            raise RunError(f"Flower's SuperLink ended with code {superlink.returncode}; see {log}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_SECONDS)
    raise RunError(f"Flower's SuperLink did not answer in {_SUPERLINK_SECONDS:.0f} s; see {log}")

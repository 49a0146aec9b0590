"""Run the Flower app on a SuperLink that is already there, follow it, and stop it when asked to.

Nothing is started here but Flower's own commands, which talk to the SuperLink. ``flwr run`` ends
with exit code 0 whatever becomes of the run; the files that the ServerApp writes last tell the
truth where they are on this machine, and the status of the run does everywhere, since the ServerApp
raises when a run is not what was asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleke_flwr.apps.deploying.run_log import RunLog
from fleke_flwr.apps.events import EventReader
from fleke_flwr.apps.flower import command_path, flower_environment
from fleke_flwr.apps.processes import Ended, ProcessGroup, ending, signals_ignored
from fleke_flwr.apps.runner import Simulation, write_app
from fleke_flwr.errors import ConfigError, RunError
from fleke_flwr.progress import Progress
from fleke_flwr.suggest import unknown

_POLL_SECONDS = 0.1
_ASK_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class RunStatus:
    """What the SuperLink says of a run.

    Parameters
    ----------
    status : str
        ``pending``, ``starting``, ``running``, or ``finished:`` with how.
    details : str
        Why, if the SuperLink knows.
    """

    status: str
    details: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.status.startswith("finished")

    @property
    def completed(self) -> bool:
        """Whether the ServerApp has ended without an error."""
        return self.status == "finished:completed"


def deploy(simulation: Simulation, federation: str, directory: Path, progress: Progress) -> None:
    """Run the Flower app on the SuperNodes of a federation and return when it has ended well.

    Parameters
    ----------
    simulation : Simulation
        What to run; the federation has its own clients and resources. Its ``output-dir`` is a
        directory of the SuperLink's machine; what the ServerApp writes is looked at if it appears
        in ``directory``.
    federation : str
        Name of a SuperLink connection in Flower's ``config.toml``.
    directory : Path
        On this machine; ``flower.log`` with the ServerApp's output is added.
    progress : Progress
        Is told what the app reports.

    Raises
    ------
    ConfigError
        If there is no such connection, or it is Flower's own simulation.
    RunError
        If the SuperLink does not take the run, or the run ends otherwise than well.
    """
    check_connection(federation)
    with tempfile.TemporaryDirectory(prefix="fleke-") as home:
        app = write_app(simulation, Path(home) / "app")
        with ending(ProcessGroup(home, flower_environment())) as group:
            run = _Run(group, federation, Path(home))
            try:
                run.submit(app)
                progress.line(f"run {run.number} of federation {federation}")
                status = _follow(run, directory, progress)
            except (KeyboardInterrupt, Ended):
                with signals_ignored():
                    run.stop()
                raise
    _judge(status, directory)
    if not (directory / "done.json").is_file():
        progress.line(
            f"finished; the results lie in {simulation.run_config['output-dir']} "
            "on the SuperLink's machine"
        )


def check_connection(federation: str) -> None:
    """Refuse a name that Flower's configuration does not have, without having one written.

    Raises
    ------
    ConfigError
        Listing those it has.
    """
    path = Path(os.environ.get("FLWR_HOME", Path.home() / ".flwr")).expanduser() / "config.toml"
    if not path.is_file():
        raise ConfigError(
            f"--federation {federation}: {path} does not exist; set FLWR_HOME to a directory with "
            "a config.toml, such as the one that fleke deploy init makes"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("superlink", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from error
    connections = {name: entry for name, entry in table.items() if isinstance(entry, dict)}
    if federation not in connections:
        raise ConfigError(f"{path}: {unknown('federation', federation, connections)}")
    if str(connections[federation].get("address", ":local:")).startswith(":"):
        raise ConfigError(
            f"--federation {federation}: this connection of {path} is Flower's simulation on this "
            "machine; leave --federation out, or name a SuperLink"
        )


class _Run:
    """One run on a SuperLink, by way of Flower's commands.

    Parameters
    ----------
    group : ProcessGroup
        In which the commands are started.
    federation : str
        Name of the connection.
    home : Path
        Scratch directory.
    """

    def __init__(self, group: ProcessGroup, federation: str, home: Path) -> None:
        self.number = ""
        self._group = group
        self._federation = federation
        self._home = home
        self._answer = home / "submitted.json"
        self._submission: subprocess.Popen[bytes] | None = None

    def submit(self, app: Path) -> None:
        """Hand the app over.

        Raises
        ------
        RunError
            With what Flower says, if it is not taken.
        """
        command = self._command("run", str(app), self._federation)
        self._submission = self._group.start(command, self._answer, self._home)
        self._submission.wait()
        answer = _json(self._answer.read_text(encoding="utf-8"))
        self.number = str(answer.get("run-id") or "")
        if not self.number:
            raise RunError(
                f"federation {self._federation} did not take the run: "
                f"{answer.get('error-message', 'no answer')}"
            )

    def status(self) -> RunStatus:
        """Ask the SuperLink.

        Raises
        ------
        RunError
            If it does not answer, or does not know the run.
        """
        answer = self._ask("list", self._federation, "--run-id", self.number)
        for run in answer.get("runs", []):
            return RunStatus(str(run["status"]), str(run.get("status-details") or ""))
        raise RunError(str(answer.get("error-message", "no answer")))

    def log(self, path: Path) -> subprocess.Popen[bytes]:
        """Start to copy what the ServerApp prints, from its beginning until its end."""
        path.unlink(missing_ok=True)
        command = [command_path("flwr"), "log", self.number, self._federation, "--stream"]
        return self._group.start(command, path, self._home)

    def stop(self) -> None:
        """End the run, also one whose number is still on its way."""
        if not self.number and self._submission is not None:
            try:
                self._submission.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                return
            self.number = str(_json(self._answer.read_text(encoding="utf-8")).get("run-id") or "")
        if self.number:
            self._ask("stop", self.number, self._federation)

    def _ask(self, *arguments: str) -> dict[str, Any]:
        try:
            answer = subprocess.run(
                self._command(*arguments),
                env=self._group.environment,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_STOP_SECONDS,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return {}
        return _json(answer.stdout)

    def _command(self, *arguments: str) -> list[str]:
        return [command_path("flwr"), *arguments, "--format", "json"]


def _follow(run: _Run, directory: Path, progress: Progress) -> RunStatus:
    """Pass on what happens until the run has ended."""
    events = EventReader(directory / "events.jsonl")
    log = RunLog(directory / "flower.log")
    while True:
        stream = run.log(log.path)
        while stream.poll() is None:
            events.forward(progress)
            # Results and their machine's event file are here only if this is that machine.
            if _ended(directory):
                break
            if not events.path.is_file():
                log.forward(progress)
            time.sleep(_POLL_SECONDS)
        events.forward(progress)
        if _ended(directory):
            return _said(directory)
        # Streams end with the run, and with the connection.
        status = _patiently(run, directory)
        if status.finished:
            return status
        time.sleep(_ASK_SECONDS)


def _ended(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("done.json", "failure.json"))


def _said(directory: Path) -> RunStatus:
    done = (directory / "done.json").is_file()
    return RunStatus("finished:completed" if done else "finished:failed")


def _patiently(run: _Run, directory: Path) -> RunStatus:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return run.status()
        except RunError as error:
            # A SuperLink that answers, and does not know the run, has been restarted.
            if "not found" in str(error) or time.monotonic() > deadline:
                raise RunError(
                    f"the SuperLink no longer tells how run {run.number} is doing ({error}); "
                    f"go on after the last round with fleke run --resume {directory}"
                ) from error
        time.sleep(_ASK_SECONDS)


def _judge(status: RunStatus, directory: Path) -> None:
    if status.completed:
        return
    log = directory / "flower.log"
    failure = directory / "failure.json"
    if failure.is_file():
        error = json.loads(failure.read_text(encoding="utf-8"))["error"]
        raise RunError(f"{error} (log: {log})")
    why = RunLog(log).reason() or status.details or "no details"
    raise RunError(f"the run ended as {status.status.removeprefix('finished:')}: {why}; see {log}")


def _json(text: str) -> dict[str, Any]:
    """Read Flower's answer, which may stand behind lines for people."""
    try:
        return dict(json.loads(text[text.find("{") :]))
    except (json.JSONDecodeError, ValueError):
        last = [line.strip() for line in text.splitlines() if line.strip()]
        return {"error-message": last[-1]} if last else {}

"""A federation of real processes on loopback: a SuperLink, SuperNodes, and runs submitted to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

import fleke_flwr.world
from fleke_flwr.apps.flower import command_path, flower_environment, free_port
from fleke_flwr.apps.processes import ProcessGroup, ending

FLEKE = str(Path(sys.executable).with_name("fleke"))
EMBEDDED_MODEL = Path(fleke_flwr.world.__file__).parent / "model"
_ONLINE_SECONDS = 120.0
_RESTART_SECONDS = 180.0
_STAYS_SECONDS = 12.0
_RUN_SECONDS = 1200.0


class Network:
    """A SuperLink with TLS and authenticated SuperNodes, each with its own records and base model.

    As a context manager it starts everything, waits until all nodes are online, and ends every
    process by its id, also those that Flower has detached.

    Parameters
    ----------
    directory : Path
        Where keys, logs, models and results go; its name is the federation's.
    records : Sequence[Path]
        A file of edits per node.
    secure : bool
        Whether TLS and node authentication are used; without them the bytes can be read.
    database : bool
        Whether the SuperLink's state survives its restart.
    model : Path
        Of which every node gets a copy.
    """

    def __init__(
        self,
        directory: Path,
        records: Sequence[Path],
        *,
        secure: bool = True,
        database: bool = False,
        model: Path = EMBEDDED_MODEL,
    ) -> None:
        self.directory = directory
        self.records = [path.resolve() for path in records]
        self.secure = secure
        self.database = database
        self.port = free_port()
        self.federation = directory.name
        self.environment = {**flower_environment(), "FLWR_HOME": str(directory / "flower")}
        # Two cores are shared by everything here.
        self.environment["OMP_NUM_THREADS"] = "1"
        # What a test may put between nodes and SuperLink, and add to every node's configuration.
        self.relays: Sequence[str] = ()
        self.node_config: Mapping[str, str | int] = {}
        self._groups: dict[str, ProcessGroup] = {}
        self._stack = ExitStack()
        self._model = model

    def __enter__(self) -> Network:
        """Start everything."""
        with ExitStack() as stack:
            self._stack = stack
            self._lay_out()
            self.start_superlink()
            if self.secure:
                for index in self.nodes:
                    self.register(self.directory / self.name(index) / "node.pub")
            for index in self.nodes:
                self.start_node(index)
            self.wait_online(len(self.nodes))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End everything."""
        self._stack.close()

    @property
    def nodes(self) -> range:
        """Numbers of the nodes, which are their partitions."""
        return range(len(self.records))

    @property
    def address(self) -> str:
        """Where the SuperLink is."""
        return f"127.0.0.1:{self.port}"

    def name(self, index: int) -> str:
        """Return what a node is called."""
        return f"hospital-{index + 1}"

    def results(self, index: int) -> Path:
        """Return where a node keeps its files."""
        return self.directory / self.name(index) / "results"

    def log(self, name: str) -> Path:
        """Return the log of ``superlink`` or of a node's name."""
        return self.directory / "logs" / f"{name}.log"

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it answers."""
        command = [command_path("flower-superlink"), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--disable-runtime-dependency-installation"]
        if self.secure:
            command += ["--ssl-ca-certfile", str(self.directory / "ca.crt")]
            command += ["--ssl-certfile", str(self.directory / "superlink" / "server.crt")]
            command += ["--ssl-keyfile", str(self.directory / "superlink" / "server.key")]
            command += ["--enable-supernode-auth"]
        else:
            command += ["--insecure"]
        if self.database:
            command += ["--database", str(self.directory / "state.db")]
        process = self._start("superlink", command)
        self._wait(lambda: "runs" in self.flwr("list"), "the SuperLink answers", process)

    def kill_superlink(self) -> None:
        """Kill the SuperLink with its ServerApps."""
        self._kill("superlink")

    def members(self, name: str) -> list[psutil.Process]:
        """Return the processes of ``superlink`` or of a node's name."""
        return self._groups[name].members()

    def register(self, public_key: Path) -> None:
        """Allow a node to come."""
        answer = self.flwr("supernode", "register", str(public_key))
        assert answer.get("success"), answer

    def start_node(self, index: int, **node_config: str | int) -> subprocess.Popen[bytes]:
        """Start a node; settings replace or extend its own, ``_`` standing for ``-``."""
        folder = self.directory / self.name(index)
        config = {
            "partition-id": index,
            "num-partitions": len(self.nodes),
            "data-path": str(self.records[index]),
            "model-path": str(folder / "model"),
            "results-path": str(self.results(index)),
            **self.node_config,
            **{key.replace("_", "-"): value for key, value in node_config.items()},
        }
        superlink = self.relays[index] if self.relays else self.address
        trust = ["--insecure"]
        if self.secure:
            trust = ["--root-certificates", str(self.directory / "ca.crt")]
            trust += ["--auth-supernode-private-key", str(folder / "node.key")]
        return self.start_supernode(self.name(index), superlink, trust, config)

    def restart_node(self, index: int) -> None:
        """Start a killed node until it stays: Flower sends it away while the dead one counts."""
        deadline = time.monotonic() + _RESTART_SECONDS
        while True:
            try:
                self.start_node(index).wait(_STAYS_SECONDS)
            except subprocess.TimeoutExpired:
                return
            assert time.monotonic() < deadline, self.log(self.name(index)).read_text()[-2000:]
            time.sleep(2.0)

    def start_supernode(
        self, name: str, superlink: str, trust: Sequence[str], config: Mapping[str, str | int]
    ) -> subprocess.Popen[bytes]:
        """Start any SuperNode."""
        words = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        command = [command_path("flower-supernode"), "--superlink", superlink, *trust]
        return self._start(name, [*command, "--port", str(free_port()), "--node-config", words])

    def kill_node(self, index: int) -> None:
        """Kill a node with whatever it is running."""
        self._kill(self.name(index))

    def online(self) -> int:
        """Return how many nodes the SuperLink can reach."""
        nodes = self.flwr("supernode", "list").get("nodes", [])
        return sum(node["status"] == "online" for node in nodes)

    def wait_online(self, count: int) -> None:
        """Wait until this many nodes are online."""
        self._wait(lambda: self.online() >= count, f"{count} nodes are online")

    def command(self, config: str | Path, *overrides: str, output: Path) -> list[str]:
        """Return the command line of a run on this federation."""
        settings = [f"clients={len(self.nodes)}", *overrides]
        words = [FLEKE, "run", str(config), *settings, "--federation", self.federation]
        return [*words, "--output", str(output)]

    def start_run(
        self, config: str | Path, *overrides: str, output: Path
    ) -> subprocess.Popen[bytes]:
        """Start a run on this federation; what it says is in the log called ``run``."""
        self.log("run").unlink(missing_ok=True)
        return self._start("run", self.command(config, *overrides, output=output))

    def run(self, config: str | Path, *overrides: str, output: Path) -> tuple[int, str]:
        """Run an experiment on this federation and return exit code and what was said."""
        code = self.start_run(config, *overrides, output=output).wait(_RUN_SECONDS)
        return code, self.log("run").read_text(encoding="utf-8")

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """Return what one of Flower's commands answers, the federation being its last argument."""
        answer = subprocess.run(
            [command_path("flwr"), *arguments, self.federation, "--format", "json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )
        return dict(json.loads(answer.stdout[answer.stdout.find("{") :]))

    def _lay_out(self) -> None:
        names = ",".join(self.name(index) for index in self.nodes)
        command = [FLEKE, "deploy", "init", str(self.directory)]
        subprocess.run(
            [*command, "--port", str(self.port), "--nodes", names],
            env=self.environment, check=True, capture_output=True,
        )  # fmt: skip
        if not self.secure:
            connection = f'[superlink.{self.federation}]\naddress = "{self.address}"\n'
            config = self.directory / "flower" / "config.toml"
            config.write_text(connection + "insecure = true\n", encoding="utf-8")
        (self.directory / "logs").mkdir()
        for index in self.nodes:
            self.results(index).mkdir()
            shutil.copytree(self._model, self.directory / self.name(index) / "model")

    def _start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        group = ProcessGroup(f"{self.directory} {name}", self.environment)
        self._groups[name] = self._stack.enter_context(ending(group))
        return group.start(command, self.log(name), self.directory)

    def _kill(self, name: str) -> None:
        group = self._groups[name]
        for process in group.members():
            process.kill()
        group.end()

    def _wait(
        self,
        condition: Callable[[], bool],
        wanted: str,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        deadline = time.monotonic() + _ONLINE_SECONDS
        while not condition():
            logs = "\n".join(self.log(name).read_text()[-2000:] for name in self._groups)
            assert process is None or process.poll() is None, logs
            assert time.monotonic() < deadline, f"in vain: {wanted}\n{logs}"
            time.sleep(0.2)

"""A run on a federation ends as it did there, and is stopped there when it is stopped here."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from fleke_flwr.apps.deploying import deployment
from fleke_flwr.apps.deploying.deployment import check_connection, deploy
from fleke_flwr.apps.deploying.run_log import RunLog
from fleke_flwr.apps.runner import Simulation
from fleke_flwr.errors import ConfigError, RunError

_CONFIG = """
[superlink]
default = "hospitals"
[superlink.local]
address = ":local:"
[superlink.hospitals]
address = "192.0.2.1:8443"
"""
# Stands in for Flower's command: notes how it is called, and answers from files.
_FLWR = """#!{python}
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
call, arguments = sys.argv[1], sys.argv[2:]
with (here / "calls").open("a") as file:
    print(json.dumps([call, *arguments]), file=file)
if call == "log":
    print((here / "log").read_text(), end="", flush=True)
    while (here / "hangs").exists():
        time.sleep(0.05)
else:
    if call == "run":
        (here / "app.toml").write_text((pathlib.Path(arguments[0]) / "pyproject.toml").read_text())
    print((here / call).read_text())
"""
_LOG = """\x1b[92mINFO \x1b[0m:      Starting logstream for run_id `7`
\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process
\x1b[91mERROR\x1b[0m:      ServerApp raised an exception
Traceback (most recent call last):
  File "server_app.py", line 30, in main
fleke_flwr.errors.RunError: client 2 sent NaN
\x1b[91mERROR\x1b[0m:      Exit Code: 201

An unhandled exception occurred in the ServerApp.
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


class Flower:
    """What the SuperLink is made to say, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.says("run", {"success": True, "run-id": "7"})
        self.says("stop", {"success": True})
        self.ends("finished:completed")
        (folder / "log").write_text("")

    def says(self, call: str, answer: object) -> None:
        (self.folder / call).write_text("a line for people\n" + json.dumps(answer))

    def ends(self, status: str, details: str = "") -> None:
        self.says("list", {"runs": [{"status": status, "status-details": details}]})

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flower:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(_CONFIG)
    monkeypatch.setenv("FLWR_HOME", str(home))
    command = home / "flwr"
    command.write_text(_FLWR.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setattr(deployment, "command_path", lambda name: str(home / name))
    monkeypatch.setattr(deployment, "_ASK_SECONDS", 0.05)
    monkeypatch.setattr(deployment, "_PATIENCE_SECONDS", 1.0)
    return Flower(home)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.mkdir()
    return path


def order(output_dir: Path | str) -> Simulation:
    return Simulation({"output-dir": str(output_dir), "clients": 3}, 3)


def test_a_connection_that_is_not_there_is_refused_with_those_that_are(flower: Flower) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml.*'hospital'.*hospitals"):
        check_connection("hospital")
    with pytest.raises(ConfigError, match="default"):
        check_connection("default")
    check_connection("hospitals")


def test_flower_s_simulation_is_no_federation(flower: Flower) -> None:
    with pytest.raises(ConfigError, match="leave --federation out"):
        check_connection("local")


def test_no_configuration_is_written_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"nothing/config\.toml does not exist; set FLWR_HOME"):
        check_connection("hospitals")
    assert not (tmp_path / "nothing").exists()


def test_a_broken_configuration_is_named(flower: Flower) -> None:
    (flower.folder / "config.toml").write_text("[superlink")
    with pytest.raises(ConfigError, match=r"config\.toml: not valid TOML"):
        check_connection("hospitals")


def test_results_on_another_machine_are_said_where(flower: Flower, output: Path) -> None:
    (flower.folder / "log").write_text("INFO :      [ROUND 1/1]\n")
    seen = Lines()
    deploy(order("/srv/run-1"), "hospitals", output, seen)
    assert seen.texts[0] == "run 7 of federation hospitals"
    assert seen.texts[-1] == "finished; the results lie in /srv/run-1 on the SuperLink's machine"
    assert [call[0] for call in flower.calls] == ["run", "log", "list"]
    assert flower.calls[0][2:] == ["hospitals", "--format", "json"]
    assert 'output-dir = "/srv/run-1"' in (flower.folder / "app.toml").read_text()


def test_the_log_is_shown_where_there_are_no_events(flower: Flower, output: Path) -> None:
    (flower.folder / "log").write_text("INFO :      [ROUND 1/1]\n\n")
    (flower.folder / "hangs").touch()
    seen = Lines()

    def release() -> None:
        while "[ROUND 1/1]" not in seen.texts:
            time.sleep(0.02)
        (flower.folder / "hangs").unlink()

    thread = threading.Thread(target=release)
    thread.start()
    deploy(order("/srv/run-1"), "hospitals", output, seen)
    thread.join()
    assert seen.texts.count("[ROUND 1/1]") == 1


def test_results_on_this_machine_are_not_waited_for(flower: Flower, output: Path) -> None:
    (flower.folder / "hangs").touch()
    flower.ends("running")
    (output / "events.jsonl").write_text('{"event": "line", "text": "round 1"}\n')
    (output / "done.json").write_text("{}")
    seen = Lines()
    deploy(order(output), "hospitals", output, seen)
    assert seen.texts == ["run 7 of federation hospitals", "round 1"]


def test_a_failure_on_this_machine_has_its_own_words(flower: Flower, output: Path) -> None:
    (flower.folder / "hangs").touch()
    (output / "failure.json").write_text('{"error": "client 2 sent NaN"}')
    with pytest.raises(RunError, match=r"^client 2 sent NaN \(log: .*flower\.log\)$"):
        deploy(order(output), "hospitals", output, Lines())


def test_a_failure_on_another_machine_has_the_words_of_its_log(
    flower: Flower, output: Path
) -> None:
    (flower.folder / "log").write_text(_LOG)
    flower.ends("finished:failed", "exit code 201")
    with pytest.raises(RunError, match=r"ended as failed: fleke_flwr\.errors\.RunError: client 2"):
        deploy(order("/srv/run-1"), "hospitals", output, Lines())


def test_without_a_log_the_status_has_to_do(flower: Flower, output: Path) -> None:
    flower.ends("finished:stopped", "by somebody")
    with pytest.raises(RunError, match="ended as stopped: by somebody; see"):
        deploy(order("/srv/run-1"), "hospitals", output, Lines())


def test_a_refused_run_is_an_error_with_flower_s_reason(flower: Flower, output: Path) -> None:
    flower.says("run", {"success": False, "error-message": "Permission denied"})
    with pytest.raises(RunError, match="hospitals did not take the run: Permission denied"):
        deploy(order(output), "hospitals", output, Lines())


def test_a_broken_stream_is_taken_up_again(flower: Flower, output: Path) -> None:
    (flower.folder / "log").write_text("INFO :      [ROUND 1/2]\n")
    flower.ends("running")

    def finish() -> None:
        while sum(call[0] == "log" for call in flower.calls if flower.calls) < 2:
            time.sleep(0.02)
        flower.ends("finished:completed")

    (flower.folder / "calls").touch()
    thread = threading.Thread(target=finish)
    thread.start()
    deploy(order("/srv/run-1"), "hospitals", output, Lines())
    thread.join()
    assert (output / "flower.log").read_text() == "INFO :      [ROUND 1/2]\n"


def test_a_superlink_that_is_gone_is_not_waited_for_for_ever(flower: Flower, output: Path) -> None:
    flower.says("list", {"success": False, "error-message": "unavailable"})
    with pytest.raises(RunError, match=r"no longer tells how run 7 is doing \(unavailable\)"):
        deploy(order("/srv/run-1"), "hospitals", output, Lines())


def test_a_superlink_that_has_forgotten_the_run_is_not_waited_for(
    flower: Flower, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "_PATIENCE_SECONDS", 600.0)
    flower.says("list", {"success": False, "error-message": "Run ID 7 not found"})
    with pytest.raises(RunError, match=r"\(Run ID 7 not found\); .* fleke run --resume .*output$"):
        deploy(order("/srv/run-1"), "hospitals", output, Lines())


def test_an_interrupt_stops_the_run_there(flower: Flower, output: Path) -> None:
    (flower.folder / "hangs").touch()
    flower.ends("running")

    def interrupt() -> None:
        while not (output / "flower.log").is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        deploy(order("/srv/run-1"), "hospitals", output, Lines())
    thread.join()
    # The log's own process may write its call down later than the stop.
    assert ["stop", "7", "hospitals", "--format", "json"] in flower.calls


def test_the_reason_is_the_last_exception_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "flower.log"
    assert RunLog(path).reason() == ""
    path.write_text(_LOG)
    assert RunLog(path).reason() == "fleke_flwr.errors.RunError: client 2 sent NaN"
    path.write_text("one\ntwo\nthree\nfour\nunfinished")
    assert RunLog(path).reason() == "two | three | four"

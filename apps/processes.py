"""Processes of one run: started here, found by a mark in their environment, ended by their ids."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

MARK = "FLEKE_RUN_MARK"
_GRACE_SECONDS = 1.0
_KILL_SECONDS = 5.0
_SWEEPS = 3
_POLL_SECONDS = 0.02


class Ended(BaseException):
    """A signal other than Ctrl-C asked the command to end; no ``except Exception`` stops it.

    Parameters
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class ProcessGroup:
    """Everything started for one run, also what has detached itself.

    Flower and Ray put their helpers into sessions of their own, and a helper whose parent has died
    belongs to nobody. A mark in the environment, which every descendant inherits, finds them all.

    Parameters
    ----------
    mark : str
        A text no other run uses.
    environment : Mapping[str, str]
        Environment of the processes, to which the mark is added.
    """

    def __init__(self, mark: str, environment: Mapping[str, str]) -> None:
        self.mark = mark
        self.environment = {**environment, MARK: mark}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], log: Path, directory: Path) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own, with its output appended to a file."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def members(self) -> list[psutil.Process]:
        """Return every living process of the run."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            if self._belongs(process):
                found[process.pid] = process
        for started in self._started:
            if started.poll() is None and psutil.pid_exists(started.pid):
                root = psutil.Process(started.pid)
                found[root.pid] = root
                found.update({child.pid: child for child in root.children(recursive=True)})
        return list(found.values())

    def end(self) -> None:
        """End every process of the run: ask first, then kill, until none is left."""
        for sweep in range(_SWEEPS):
            living = self.members()
            if not living:
                break
            if sweep == 0:
                _signal_all(living, signal.SIGTERM)
                living = self._wait(living, _GRACE_SECONDS)
            _signal_all(living, signal.SIGKILL)
            self._wait(living, _KILL_SECONDS)
        for process in self._started:
            process.wait()

    def _wait(self, processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
        """Return those still living after a while.

        Not ``psutil.wait_procs``: it would take the exit codes of our own children.
        """
        deadline = time.monotonic() + seconds
        living = list(processes)
        while living and time.monotonic() < deadline:
            for started in self._started:
                started.poll()
            living = [process for process in living if _lives(process)]
            time.sleep(_POLL_SECONDS)
        return living

    def _belongs(self, process: psutil.Process) -> bool:
        try:
            return _lives(process) and bool(process.environ().get(MARK) == self.mark)
        except psutil.Error:
            return False


@contextmanager
def ending(group: ProcessGroup) -> Iterator[ProcessGroup]:
    """End the group when the block is left, whatever the reason, undisturbed by more signals."""
    with _signals_raise():
        try:
            yield group
        finally:
            with signals_ignored():
                group.end()


@contextmanager
def _signals_raise() -> Iterator[None]:
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup has it ignored, and means it
        numbers.append(signal.SIGHUP)
    # A script's background job starts with SIGINT ignored; one sent to this process is meant.
    with _handled(numbers, _raise_ended), _handled([signal.SIGINT], signal.default_int_handler):
        yield


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Let nothing interrupt what ends a run."""
    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread only
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _raise_ended(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            if process.pid != os.getpid():
                process.send_signal(number)
        except psutil.NoSuchProcess:
            continue

"""What a run looks like in a terminal: a tree at the start, a bar per phase, lines in between."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from rich.tree import Tree

from fleke_flwr.config import RunConfig


class RateColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """Show the speed, once there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


class LiveProgress:
    """A bar per phase; a phase that starts again while it is running grows.

    Parameters
    ----------
    console : Console
        An interactive terminal.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> LiveProgress:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        self._bars.stop()

    def start(self, phase: str, total: int) -> None:
        """Begin a phase, or lengthen it when it is still running; nothing to do is not shown."""
        if total == 0:
            return
        task = self._task(phase)
        if task is None:
            self._tasks[phase] = self._bars.add_task(phase, total=total)
        elif task.finished:
            self._bars.reset(task.id, total=total)
        else:
            self._bars.update(task.id, total=(task.total or 0) + total)

    def advance(self, phase: str, amount: int = 1) -> None:
        """Move a bar on."""
        if phase in self._tasks:
            self._bars.advance(self._tasks[phase], amount)

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def _task(self, phase: str) -> Task | None:
        known = self._tasks.get(phase)
        return next((task for task in self._bars.tasks if task.id == known), None)


class PlainProgress:
    """One line when a phase ends, for logs and pipes.

    Parameters
    ----------
    console : Console
        Where the lines go.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open: dict[str, tuple[int, int, float]] = {}

    def __enter__(self) -> PlainProgress:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Name what was still running."""
        for phase, (done, total, _) in self._open.items():
            self.line(f"{phase}: stopped at {done} of {total}")

    def start(self, phase: str, total: int) -> None:
        """Begin a phase, or lengthen it when it is still running; nothing to do is not shown."""
        if total == 0:
            return
        done, before, since = self._open.get(phase, (0, 0, time.monotonic()))
        self._open[phase] = (done, before + total, since)

    def advance(self, phase: str, amount: int = 1) -> None:
        """Count; say so when the phase is complete."""
        if phase not in self._open:
            return
        done, total, since = self._open[phase]
        self._open[phase] = (done + amount, total, since)
        if done + amount >= total:
            del self._open[phase]
            self.line(f"{phase}: {total} in {time.monotonic() - since:.1f} s")

    def line(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def progress_view(console: Console) -> LiveProgress | PlainProgress:
    """Choose bars for a terminal and lines for everything else."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def summary_tree(config: RunConfig, directory: str) -> Tree:
    """Show what is about to run."""
    tree = Tree(f"[bold]{config.name}[/bold]")
    counts = str(config.data.edits or "all")
    if config.sweep.key:
        counts += f"; sweep {config.sweep.key} = {config.sweep.values}"
    spread = config.edit.spread if config.mode == "frozen" else ""
    facts = {
        "strategies" if len(config.strategy_names) > 1 else "strategy": ", ".join(
            config.strategy_names
        ),
        "editor": f"{', '.join(config.editor_names)}, mode {config.mode} {spread}".rstrip(),
        "payload": f"{config.encoding}, {config.payload_dtype}",
        "model": f"{config.model.name} ({config.model.dtype} on {config.model.device})",
        "records": f"{counts} of {config.data.path}, {config.data.partition}"
        if config.data.path
        else "the nodes' own",
        "clients": f"{config.clients}, rounds {config.rounds}, seed {config.seed}",
        "output": directory,
    }
    for name, value in facts.items():
        tree.add(Text.assemble((f"{name}: ", "dim"), value))
    return tree

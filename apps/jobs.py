"""What the commands around a Flower run do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fleke_flwr.apps import preflight
from fleke_flwr.apps.deploying.deployment import check_connection, deploy
from fleke_flwr.apps.results import BOUND, read_rows
from fleke_flwr.apps.run_file import clear_end, note_run, read_run
from fleke_flwr.apps.runner import Simulation, simulate
from fleke_flwr.apps.tables import result_table
from fleke_flwr.apps.terminal import progress_view, summary_tree
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import ConfigError


def run_experiment(
    config: RunConfig, output: Path | None, console: Console, federation: str = ""
) -> Path:
    """Check, run the Flower app, show the table, write the report.

    Parameters
    ----------
    config : RunConfig
        What to run.
    output : Path or None
        Directory of the results.
    console : Console
        Where it is shown.
    federation : str
        A SuperLink connection of Flower's configuration; a simulation without one.

    Returns
    -------
    Path
        The directory of the results.
    """
    if federation:
        check_connection(federation)
    preflight.check(config, federation)
    directory = preflight.prepare_directory(output, config.name)
    # On another machine the results may have to go elsewhere than here.
    there = config.output_dir if federation else ""
    config = replace(config, output_dir=there or str(directory))
    if not config.resume:
        note_run(directory, config, federation)
    return _start(config, directory, federation, console)


def resume_experiment(run: Path, overrides: Sequence[str], console: Console) -> Path:
    """Go on with a run that was broken off; one that is complete is only shown."""
    directory = run.expanduser().resolve()
    config, federation = read_run(directory, overrides)
    if (directory / "done.json").is_file():
        show_results(directory, console)
        return directory
    preflight.check(config, federation)
    clear_end(directory)
    return _start(config, directory, federation, console)


def _start(config: RunConfig, directory: Path, federation: str, console: Console) -> Path:
    console.print(summary_tree(config, str(directory)))
    order = Simulation(config.to_flat(), config.clients, preflight.gpus_of(config.model.device))
    with progress_view(console) as progress:
        progress.line(f"going to federation {federation}" if federation else "starting Flower")
        if federation:
            deploy(order, federation, directory, progress)
        else:
            simulate(order, directory, progress)
    # Of a run on another machine, the results lie there.
    if not federation or (directory / "done.json").is_file():
        show_results(directory, console)
    return directory


def run_comparison(
    config: RunConfig, output: Path | None, console: Console, federation: str = ""
) -> Path:
    """Run several strategies; a single one is compared with the pooled bound."""
    alone = len(config.strategy_names) == 1 and config.strategy_names != [BOUND]
    if alone and not federation:
        config = replace(config, strategies=f"{config.strategy_names[0]},{BOUND}")
    directory = run_experiment(config, output, console, federation)
    comparison = directory / "comparison.json"
    if (directory / "metrics.json").is_file() and not comparison.is_file():
        text = json.dumps({"schema": 1, "rows": read_rows(directory)}, indent=2)
        comparison.write_text(text + "\n", encoding="utf-8")
    return directory


def _alone(config: RunConfig) -> RunConfig:
    """Check a command that works in this process, where no strategy merges anything.

    Without clients there may be fewer records than clients.
    """
    if 0 < config.data.edits < config.clients:
        config = replace(config, clients=config.data.edits)
    preflight.check(replace(config, strategy=BOUND, strategies=""))
    return config


def run_central(config: RunConfig, output: Path | None, batch: int, console: Console) -> Path:
    """Edit everything in this process, at once or in batches."""
    config = _alone(config)
    from fleke_flwr.apps.central import check_recipe, edit
    from fleke_flwr.progress import EventFile

    # Before an earlier result is removed.
    check_recipe(config)
    directory = preflight.prepare_directory(output, f"{config.name}-central")

    EventFile(directory / "events.jsonl").line("central edit")
    with progress_view(console) as progress:
        edit(config, directory, progress, batch)
    show_results(directory, console)
    return directory


def run_repetition(
    config: RunConfig, output: Path | None, edits: int, copies: int, console: Console
) -> Path:
    """Study what is left of residuals when the same edits are made again."""
    config = _alone(config)
    directory = preflight.prepare_directory(output, f"{config.name}-repeats")
    from fleke_flwr.apps.repeats import run_repeats
    from fleke_flwr.progress import EventFile

    EventFile(directory / "events.jsonl").line("repeats")
    with progress_view(console) as progress:
        path = run_repeats(config, directory, edits, copies, progress)
    console.print(
        f"\nnumbers and figure: {path.parent}", markup=False, highlight=False, soft_wrap=True
    )
    return directory


def run_revocation(run: Path, client: int | None, edits: Path | None, console: Console) -> None:
    """Withdraw a client or single edits from a finished run, and show what it changed."""
    from fleke_flwr.apps.revoke import revoke, show_revocation

    with progress_view(console) as progress:
        done = revoke(run, client, edits, progress)
    show_revocation(done, console)


def run_evaluation(
    config: RunConfig, edits: Path | None, output: Path | None, console: Console
) -> dict[str, Any]:
    """Measure a model, with saved edits or without, and print the figures."""
    config = _alone(config)
    from fleke_flwr.apps.central import judge
    from fleke_flwr.artifacts import write_json

    with progress_view(console) as progress:
        row = judge(config, edits, progress)
    if output is not None:
        write_json(output.expanduser() / "evaluation.json", row)
    console.print(result_table([row]))
    return row


def run_covariance(config: RunConfig, console: Console) -> None:
    """Fill the covariance cache."""
    config = _alone(config)
    from fleke_flwr.apps.central import prepare_covariance

    with progress_view(console) as progress:
        modules = prepare_covariance(config, progress)
    for module in modules:
        console.print(f"ready: {module}", markup=False, highlight=False)


@dataclass(frozen=True)
class TrainingOrder:
    """What ``fleke world train`` was asked for; without records, the embedded world.

    Parameters
    ----------
    output : Path
        Directory of the model.
    records, text : Path, optional
        Records whose true facts are learnt, and plain text that is mixed in.
    minutes : float
        Upper bound of the training time.
    templates : Path, optional
        Further phrasings of the relations of conflicts, which are learnt, too.
    """

    output: Path
    records: Path | None = None
    text: Path | None = None
    minutes: float = 30.0
    templates: Path | None = None


def run_training(order: TrainingOrder, console: Console) -> None:
    """Train the embedded model anew, or one on the true facts of a file.

    Raises
    ------
    ConfigError
        If plain text or templates are given without records.
    """
    from fleke_flwr import world

    with progress_view(console) as progress:
        if order.records is None:
            if order.text is not None:
                raise ConfigError("--text goes with --records; the embedded world makes its own")
            if order.templates is not None:
                raise ConfigError("--templates goes with --records; the embedded world has its own")
            world.train_embedded(order.output, minutes=order.minutes, progress=progress)
        else:
            world.train_on_records(
                order.records,
                order.output,
                text=order.text,
                templates=order.templates,
                minutes=order.minutes,
                progress=progress,
            )
    console.print(f"\nmodel: {order.output}", markup=False, highlight=False, soft_wrap=True)


def show_results(directory: Path, console: Console, answers: Path | None = None) -> None:
    """Print the table of a finished run and write its report."""
    from fleke_flwr.apps.report import render

    console.print()
    console.print(result_table(read_rows(directory)), soft_wrap=not console.is_terminal)
    report = render(directory, answers.expanduser().resolve() if answers else None)
    console.print(f"\nreport: {report}", markup=False, highlight=False, soft_wrap=True)

"""The command line ``fleke``.

Only what ``--help`` needs is imported here; each command imports its own parts.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console

from fleke_flwr.apps.processes import Ended
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import ConfigError, FlekeError

application = typer.Typer(
    name="fleke",
    help="Federated knowledge editing of language models, on Flower.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
deploy = typer.Typer(help="Runs on SuperLink and SuperNodes.", no_args_is_help=True)
application.add_typer(deploy, name="deploy")
world = typer.Typer(help="The small models that know a set of facts.", no_args_is_help=True)
application.add_typer(world, name="world")

ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A TOML file, or a packaged experiment: demo, ...")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file's."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Directory of the results (default: outputs/NAME-TIME)."),
]

Federation = Annotated[
    str,
    typer.Option(help="A SuperLink connection of Flower's config.toml (default: a simulation)."),
]


@application.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Federated knowledge editing of language models, on Flower."""
    if version:
        from fleke_flwr import __version__

        typer.echo(__version__)
        raise typer.Exit


@application.command()
def run(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="A TOML file, or a packaged experiment: demo, ...; none with --resume",
        ),
    ] = None,
    overrides: Overrides = None,
    output: Output = None,
    federation: Federation = "",
    resume: Annotated[
        Path | None,
        typer.Option(help="Directory of a broken-off run that goes on after its last round."),
    ] = None,
) -> None:
    """Run what a config says, in simulation or on the SuperNodes of a federation."""
    from fleke_flwr.apps.jobs import resume_experiment, run_experiment

    if resume is not None:
        if output is not None or federation:
            raise ConfigError("--resume takes directory and federation from the run it resumes")
        given = [item for item in (config, *(overrides or ())) if item is not None]
        resume_experiment(resume, given, Console())
        return
    if config is None:
        raise ConfigError("no config: name a TOML file or an experiment such as demo, or --resume")
    run_experiment(_read(config, overrides), output, Console(), federation)


@application.command()
def compare(
    config: ConfigName,
    overrides: Overrides = None,
    strategies: Annotated[
        str,
        typer.Option(
            help="Comma-separated names (default: the config's, or its one and the bound)."
        ),
    ] = "",
    editors: Annotated[
        str, typer.Option(help="Comma-separated names (default: the config's).")
    ] = "",
    output: Output = None,
    federation: Federation = "",
) -> None:
    """Run several strategies on the same clients and records, in one Flower run."""
    from fleke_flwr.apps.jobs import run_comparison

    chosen = _read(config, overrides)
    chosen = replace(
        chosen,
        strategies=strategies or chosen.strategies,
        editors=editors or chosen.editors,
    )
    run_comparison(chosen, output, Console(), federation)


@application.command()
def edit(
    config: ConfigName,
    overrides: Overrides = None,
    batch: Annotated[
        int,
        typer.Option(min=0, help="Records edited together, batch after batch (default: all)."),
    ] = 0,
    output: Output = None,
) -> None:
    """Edit all records on this machine, without clients, at once or one batch after the other."""
    from fleke_flwr.apps.jobs import run_central

    run_central(_read(config, overrides), output, batch, Console())


@application.command()
def repeats(
    config: ConfigName,
    overrides: Overrides = None,
    edits: Annotated[int, typer.Option(min=1, help="How many records, the first ones.")] = 20,
    copies: Annotated[int, typer.Option(min=1, help="Most repeats, and copies in a batch.")] = 12,
    output: Output = None,
) -> None:
    """Make single edits again and again; show how much of their residual is left."""
    from fleke_flwr.apps.jobs import run_repetition

    run_repetition(_read(config, overrides), output, edits, copies, Console())


@application.command()
def evaluate(
    config: ConfigName,
    overrides: Overrides = None,
    edits: Annotated[
        Path | None, typer.Option(help="An edits.safetensors to apply; without it, the base model.")
    ] = None,
    output: Output = None,
) -> None:
    """Measure a model on a config's records, with saved edits applied."""
    from fleke_flwr.apps.jobs import run_evaluation

    run_evaluation(_read(config, overrides), edits, output, Console())


@application.command("train-editor")
def train_editor(  # noqa: PLR0913  (the options of a command)
    config: ConfigName,
    overrides: Overrides = None,
    editor: Annotated[str, typer.Option(help="malmen or mend (default: the config's).")] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Directory of the network (default: the cache's, for the model)."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Upper bound of the time.")] = 10.0,
    steps: Annotated[int, typer.Option(min=1, help="Upper bound of the steps.")] = 2000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the directory's checkpoint.")
    ] = False,
    settings: Annotated[
        str, typer.Option("--set", help="Settings of the training: NAME=VALUE,NAME=VALUE.")
    ] = "",
) -> None:
    """Train the hyper-network of MALMEN or MEND on a share of a config's subjects."""
    from fleke_flwr.apps.train_editor import EditorTraining
    from fleke_flwr.apps.train_editor import train_editor as train_network

    chosen = _read(config, overrides)
    order = EditorTraining(editor or chosen.editor, output, minutes, steps, resume, settings)
    train_network(chosen, order, Console())


@application.command()
def covariance(config: ConfigName, overrides: Overrides = None) -> None:
    """Compute the covariances a config needs, or find them in the cache."""
    from fleke_flwr.apps.jobs import run_covariance

    run_covariance(_read(config, overrides), Console())


@application.command()
def trace(  # noqa: PLR0913  (a command's options are its arguments)
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="embedded, a directory, or a hub name.")
    ],
    overrides: Overrides = None,
    data: Annotated[
        str, typer.Option(help="Facts: a file, embedded, or hub:OWNER/NAME.")
    ] = "embedded",
    limit: Annotated[int, typer.Option(min=0, help="Known facts that are traced (0: all).")] = 100,
    kinds: Annotated[
        str, typer.Option(help="What is restored, of these, with commas.")
    ] = "block,mlp,attention,severed-mlp,severed-attention",
    window: Annotated[
        int | None,
        typer.Option(min=1, help="MLPs or attentions restored together (default: by depth)."),
    ] = None,
    noise: Annotated[str, typer.Option(help="s3, u1.0, m or t5: see docs/trace.md.")] = "s3",
    samples: Annotated[int, typer.Option(min=1, help="Corrupted copies of a prompt.")] = 10,
    replace_: Annotated[
        bool, typer.Option("--replace", help="Put noise in the embeddings' place.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or float64.")] = "",
    edit_: Annotated[
        bool | None,
        typer.Option(
            "--edit/--no-edit", help="Edit every layer by itself, too (default: embedded only)."
        ),
    ] = None,
    edits: Annotated[int, typer.Option(min=1, help="How many facts are edited then.")] = 50,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory (default: outputs/trace-TIME)."),
    ] = None,
) -> None:
    """Find the layers that carry facts a model knows, and suggest which to edit."""
    from fleke_flwr.apps.locating.job import TraceOrder, kinds_of, run_trace
    from fleke_flwr.locate import TraceSettings

    settings = TraceSettings(kinds_of(kinds), samples, window or 0, replace_, seed)
    given = (*(overrides or ()), *([f"model.dtype={dtype}"] if dtype else []))
    order = TraceOrder(model, data, settings, noise, limit, edit_, edits, given)
    run_trace(order, output, Console())


@application.command()
def partition(
    config: ConfigName,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Directory of partition.csv, its picture and a file per client (default: none).",
        ),
    ] = None,
) -> None:
    """Show which client gets which records."""
    from fleke_flwr.apps.partitions import show

    show(_read(config, overrides), output, Console())


@application.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")],
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Where a client keeps its files, to show its failed edits (default: RUN's own)."
        ),
    ] = None,
) -> None:
    """Show the table of a finished run again and write its report."""
    from fleke_flwr.apps.jobs import show_results

    show_results(directory.expanduser().resolve(), Console(), answers)


@application.command()
def revoke(
    directory: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Directory of a finished run, or RUN/variants/NAME."),
    ],
    client: Annotated[int | None, typer.Option(help="Number of the client that goes.")] = None,
    edits: Annotated[
        Path | None, typer.Option(help="A file of the edits that go, in any record schema.")
    ] = None,
) -> None:
    """Give a run's model as if a client, or some edits, had never been there."""
    from fleke_flwr.apps.jobs import run_revocation

    run_revocation(directory, client, edits, Console())


@application.command()
def check(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="Records: a file, embedded, or hub:OWNER/NAME.")
    ],
    overrides: Overrides = None,
    model: Annotated[
        str, typer.Option(help="Directory or hub name of the model (default: the settings').")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file of all that was found.")
    ] = None,
) -> None:
    """Say before a run what is wrong with records, and what a run would cost."""
    from fleke_flwr.apps.check import run_check

    code = run_check(source, model, overrides or (), output, Console())
    if code:
        raise typer.Exit(code)


@application.command()
def export(
    directory: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Directory of a finished run, or RUN/variants/NAME."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new directory.")],
    format_: Annotated[
        str, typer.Option("--format", help="hf (whole model), peft (LoRA adapter), or edits.")
    ] = "hf",
    client: Annotated[
        int | None, typer.Option(help="Whose model, where models are personal.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Largest rank of an adapter (default: all).")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Format of a whole model's weights (default: the run's).")
    ] = "",
) -> None:
    """Write a run's edited model for transformers or peft, or its updates for anything."""
    from fleke_flwr.apps.export import ExportOrder, show_export
    from fleke_flwr.apps.export import export as write

    show_export(write(ExportOrder(directory, format_, output, client, rank, dtype)), Console())


@application.command()
def apply(
    edits: Annotated[
        Path, typer.Argument(metavar="EDITS", help="A run, an export, or an edits.safetensors.")
    ],
    model: Annotated[str, typer.Option(help="A model directory, or embedded.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new directory for the edited copy.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Edit the directory itself.")
    ] = False,
    client: Annotated[
        int | None, typer.Option(help="Whose model, where a run's models are personal.")
    ] = None,
) -> None:
    """Add edits to a model directory; revert takes them out again."""
    from fleke_flwr.apps.patch import apply as add
    from fleke_flwr.apps.patch import show_patch

    show_patch(add(edits, model, output, in_place=in_place, client=client), Console())


@application.command()
def revert(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that apply wrote.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A new directory for the reverted copy (default: in place)."
        ),
    ] = None,
) -> None:
    """Take the last edits out of a model directory, bit for bit."""
    from fleke_flwr.apps.patch import revert as take_out
    from fleke_flwr.apps.patch import show_patch

    show_patch(take_out(model, output), Console(), reverted=True)


@deploy.command("init")
def deploy_init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="New directory; its name is the federation's.")
    ],
    host: Annotated[
        str, typer.Option(help="Name or address by which the SuperNodes reach the SuperLink.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the SuperLink.")] = 8443,
    nodes: Annotated[
        str, typer.Option(help="Comma-separated names of the SuperNodes, by partition.")
    ] = "hospital-1,hospital-2",
) -> None:
    """Make certificates, keys and start scripts for a SuperLink and its SuperNodes."""
    from fleke_flwr.apps.deploying.init import Layout, init, read_nodes

    root = directory.expanduser().resolve()
    init(Layout(root, read_nodes(nodes), host, port), Console())


@world.command("train")
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the model.")],
    records: Annotated[
        Path | None,
        typer.Option(
            help="CounterFact, zsRE or conflict records whose true facts it learns "
            "(default: the embedded world)."
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Plain text mixed in, with --records only.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Upper bound of the training time.")
    ] = 30.0,
    templates: Annotated[
        Path | None,
        typer.Option(help="Further phrasings of conflicts' relations (JSON), with --records only."),
    ] = None,
) -> None:
    """Train a small model that knows, and can be edited in, a world of facts."""
    from fleke_flwr.apps.jobs import TrainingOrder, run_training

    run_training(TrainingOrder(output, records, text, minutes, templates), Console())


def main() -> None:
    """Run the command line; the exit code is 0 only when everything asked for was done."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    sys.exit(execute([item for item in arguments if item != "--debug"], debug=debug))


def execute(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run one command and return its exit code, with every expected error as one line."""
    try:
        code = application(args=list(arguments), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Ended as stop:
        code = stop.exit_code
    except FlekeError as error:
        if debug:
            traceback.print_exc()
        _say(f"error: {error}")
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        place = f"{error.filename}: " if error.filename else ""
        _say(f"error: {place}{error.strerror or error}; name another place, or make room for it")
        return 1
    if isinstance(code, int) and code > 128:
        _say("interrupted; everything that was started has been ended")
    return code if isinstance(code, int) else 0


def _read(name: str, overrides: Sequence[str] | None) -> RunConfig:
    from fleke_flwr.apps.preflight import read_config

    return read_config(name, overrides or ())


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)

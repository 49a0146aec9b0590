"""The job behind ``fleke train-editor``: a hyper-network for MEND or MALMEN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fleke_flwr.apps.presets import settings_of
from fleke_flwr.apps.priors import cache_directory
from fleke_flwr.apps.terminal import progress_view
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.editors.hyper.checkpoint import CHECKPOINT
from fleke_flwr.editors.hyper.modules import edited_modules
from fleke_flwr.editors.hyper.network import NETWORKS
from fleke_flwr.editors.hyper.settings import DEFAULTS
from fleke_flwr.editors.hyper.storage import CARD, cached_network
from fleke_flwr.editors.hyper.training import TrainingOrder, train_network
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.suggest import unknown
from fleke_flwr.values import comma_list, named_texts, to_int


@dataclass(frozen=True)
class EditorTraining:
    """What ``fleke train-editor`` was asked for, besides model and records.

    Parameters
    ----------
    editor : str
        ``malmen`` or ``mend``.
    output : Path, optional
        Directory of the network; that of the user's cache for this model unless given.
    minutes : float
        Upper bound of the time.
    steps : int
        Upper bound of the steps.
    resume : bool
        Whether to go on from the checkpoint in the directory.
    settings : str
        ``name=value`` pairs of the training's own settings, comma-separated.
    """

    editor: str
    output: Path | None = None
    minutes: float = 10.0
    steps: int = 2000
    resume: bool = False
    settings: str = ""


@dataclass(frozen=True)
class TrainedEditor:
    """Where a network lies, and its card."""

    directory: Path
    card: Mapping[str, Any]


def train_editor(config: RunConfig, order: EditorTraining, console: Console) -> TrainedEditor:
    """Train a network on a share of a config's subjects; the others are left for editing.

    Raises
    ------
    ConfigError
        If the editor has no network, a setting is wrong, the directory holds another network, or
        the checkpoint is that of another training.
    DataError
        If the records cannot be used or are too few, or there is nothing to resume.
    """
    if order.editor not in NETWORKS:
        raise ConfigError(unknown("editor with a network", order.editor, NETWORKS))
    texts = named_texts("--set", order.settings)
    settings = DEFAULTS[order.editor].with_texts(texts)
    records = load_cases(config.data)
    model = load_model(config.model)
    layers = _layers(config, model, order.editor)
    edited_modules(order.editor, model, layers)
    directory = _directory(config, order, model)
    directory.mkdir(parents=True, exist_ok=True)
    wanted = TrainingOrder(
        editor=order.editor,
        layers=layers,
        settings=settings,
        data={"path": records.name, "fingerprint": records.fingerprint},
        steps=order.steps,
        minutes=order.minutes,
        batch_tokens=config.edit.batch_tokens,
    )
    with progress_view(console) as progress:
        card = train_network(model, records.cases, wanted, (directory, order.resume), progress)
    show(TrainedEditor(directory, card), console)
    return TrainedEditor(directory, card)


def show(trained: TrainedEditor, console: Console) -> None:
    """Say what came out, and how it is used."""
    card = trained.card
    best = next(
        point["validation"] for point in card["curve"] if point["step"] == card["best_step"]
    )
    said = (
        f"\nbest at step {card['best_step']} of {card['steps']}: right tokens of the new answers "
        f"of {min(card['split']['records']['validation'], card['settings']['validated'])} held-out "
        f"records {best['own']:.1%}, in other "
        f"words {best['paraphrase']:.1%}; divergence elsewhere {best['divergence']:.3f}"
        f"\nnetwork: {trained.directory}"
        f"\nuse it: editor={card['editor']} edit.layers={','.join(map(str, card['layers']))} "
        f"edit.options=network={trained.directory}"
    )
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _layers(config: RunConfig, model: EditableModel, editor: str) -> tuple[int, ...]:
    given = [to_int("edit.layers", item) for item in comma_list(config.edit.layers)]
    layers = given or settings_of(config, model, editor).get("layers")
    if not layers:
        raise ConfigError(
            f"model {model.name!r} has no layers of its own to edit; give edit.layers, for example "
            "the last six blocks, as MALMEN does"
        )
    return tuple(sorted(set(layers)))


def _directory(config: RunConfig, order: EditorTraining, model: EditableModel) -> Path:
    directory = order.output or cached_network(order.editor, model, cache_directory(config))
    directory = directory.expanduser().resolve()
    if not order.resume:
        held = [name for name in (CARD, CHECKPOINT) if (directory / name).exists()]
        if held:
            raise ConfigError(
                f"{directory} already holds {', '.join(held)}; go on with --resume, or give "
                "another directory with -o"
            )
    return directory

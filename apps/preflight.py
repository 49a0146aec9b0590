"""Find a user's mistakes before Flower starts: a second instead of twenty."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from fleke_flwr.apps.run_file import CHECKPOINT, RUN_FILE, RUNNING
from fleke_flwr.artifacts import read_json
from fleke_flwr.config import RunConfig, load_config
from fleke_flwr.data.hub import HUB
from fleke_flwr.errors import ConfigError, DataError, ModelError
from fleke_flwr.suggest import unknown
from fleke_flwr.values import comma_list, named_texts, to_int

EMBEDDED = "embedded"
# What configurations of the families call the number of blocks.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_TRACES = (
    "done.json",
    "events.jsonl",
    "failure.json",
    "flower.log",
    RUN_FILE,
    RUNNING,
)
_RESULTS = (
    CHECKPOINT,
    "comparison.json",
    "edits.safetensors",
    "manifest.json",
    "metrics.json",
    "repeats-dark.svg",
    "repeats.csv",
    "repeats.json",
    "repeats.png",
    "repeats.svg",
    "report.html",
    "revocation.json",
    "rounds.jsonl",
    "statistics.safetensors",
)
_FOLDERS = (
    "answers",
    "memory",
    "personal",
    "report",
    "targets",
    "tensorboard",
    "variants",
    "wandb",
)


def read_config(name: str, overrides: Sequence[str]) -> RunConfig:
    """Read a TOML file, or one of the experiments that come with the package.

    Parameters
    ----------
    name : str
        A path, or the bare name of a packaged experiment such as ``demo``.
    overrides : Sequence[str]
        ``key=value`` pairs.

    Raises
    ------
    ConfigError
        If neither exists, or a key or value is wrong.
    """
    if name.endswith(".toml") or "/" in name or Path(name).is_file():
        return _absolute(load_config(Path(name), overrides))
    folder = files("fleke_flwr.configs") / "experiments"
    known = {
        entry.name.removesuffix(".toml"): entry
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }
    if name not in known:
        raise ConfigError(unknown("experiment", name, known) + " Or give the path of a TOML file.")
    with as_file(known[name]) as path:
        return _absolute(load_config(path, overrides))


def check(config: RunConfig, federation: str = "") -> None:
    """Refuse a run that cannot work: names, records, model, device.

    Parameters
    ----------
    config : RunConfig
        What is to be run.
    federation : str
        Where, if not in a simulation; the records are the nodes' then, and nobody sees them here.

    Raises
    ------
    ConfigError, DataError, ModelError
        Saying what was found and what to do.
    """
    _check_model(config)
    _check_names(config)
    if federation:
        _check_deployable(config)
    else:
        _check_records(config)


def gpus_of(device: str) -> int:
    """Return how many GPUs a model takes in a process, given ``model.device``."""
    if device == "auto":
        import torch

        return torch.cuda.device_count()
    return int(device.startswith("cuda"))


def prepare_directory(chosen: Path | None, name: str) -> Path:
    """Create the directory of a run; what an earlier run has left in it is removed.

    Half of an old run and half of a new one must never be taken for a whole.

    Raises
    ------
    ConfigError
        If the path is a file, or holds results that are not an earlier run's.
    """
    directory = chosen or Path("outputs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = directory.expanduser().resolve()
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--output {directory}: is a file; name a directory")
    directory.mkdir(parents=True, exist_ok=True)
    found = [result for result in _RESULTS if (directory / result).exists()]
    if found and not any((directory / trace).is_file() for trace in _TRACES):
        raise ConfigError(
            f"--output {directory}: holds {', '.join(found)} of something else than a run; "
            "name another directory"
        )
    for file in (*found, *_TRACES):
        (directory / file).unlink(missing_ok=True)
    if found:
        for folder in _FOLDERS:
            shutil.rmtree(directory / folder, ignore_errors=True)
    return directory


def _absolute(config: RunConfig) -> RunConfig:
    """Make paths independent of the directory that Flower's processes run in."""
    model, data, covariance, edit = config.model, config.data, config.covariance, config.edit
    preset = edit.preset
    return replace(
        config,
        cache_dir=_path(config.cache_dir) if config.cache_dir else "",
        model=replace(model, name=_path(model.name) if _is_path(model.name) else model.name),
        data=replace(
            data,
            path=_source(data.path),
            encoder=_path(data.encoder) if data.encoder else "",
        ),
        evaluation=replace(
            config.evaluation,
            idf=_path(config.evaluation.idf) if config.evaluation.idf else "",
            text=_path(config.evaluation.text) if config.evaluation.text else "",
        ),
        covariance=replace(
            covariance, corpus=_path(covariance.corpus) if covariance.corpus else ""
        ),
        conflict=replace(
            config.conflict,
            templates=_path(config.conflict.templates) if config.conflict.templates else "",
        ),
        edit=replace(
            edit,
            preset=_path(preset) if preset.endswith(".toml") else preset,
            options=_with_absolute_network(edit.options),
        ),
    )


def _with_absolute_network(options: str) -> str:
    found = named_texts("edit.options", options)
    if not found.get("network"):
        return options
    named = {**found, "network": _path(found["network"])}
    return ",".join(f"{name}={value}" for name, value in named.items())


def _source(text: str) -> str:
    return text if text in ("", EMBEDDED) or text.startswith(HUB) else _path(text)


def _path(text: str) -> str:
    return str(Path(text).expanduser().resolve())


def _is_path(name: str) -> bool:
    """Tell a local directory from ``embedded`` and from a hub name such as ``owner/model``."""
    if name in ("", EMBEDDED):
        return False
    return name.startswith(("/", ".", "~")) or Path(name).exists()


def _check_model(config: RunConfig) -> None:
    name = config.model.name
    if not name:
        raise ConfigError("no model: give model=DIRECTORY, a hub name, or model=embedded")
    if _is_path(name):
        directory = Path(name)
        if not directory.is_dir():
            raise ModelError(f"model {name}: no such directory")
        missing = [
            what
            for what, pattern in (
                ("config.json", "config.json"),
                ("tokenizer.json", "tokenizer.json"),
                ("weights", "*.safetensors*"),
            )
            if not any(directory.glob(pattern))
        ]
        if missing:
            raise ModelError(
                f"model {name}: is not a model directory, {', '.join(missing)} missing; name one "
                "in which model and tokenizer were saved by save_pretrained, or one of fleke world "
                "train"
            )
        _check_layers(config, directory)
    elif name == EMBEDDED:
        from fleke_flwr.world import embedded_directory

        _check_layers(config, embedded_directory())
    if config.model.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                f"model.device = {config.model.device!r}: torch sees no CUDA device; use cpu"
            )


def _check_layers(config: RunConfig, directory: Path) -> None:
    """Refuse layers that the model's configuration does not have."""
    about = read_json(directory / "config.json")
    if not isinstance(about, dict):
        return  # loading will say what is wrong with it
    about = {**about, **(about.get("text_config") or {})}
    count = next((about[name] for name in _LAYERS if isinstance(about.get(name), int)), None)
    for text in comma_list(config.edit.layers):
        layer = to_int("edit.layers", text)
        if count is not None and not 0 <= layer < count:
            raise ModelError(
                f"model {config.model.name!r} has no layer {layer}: its layers are 0 to "
                f"{count - 1}; correct edit.layers"
            )


def _check_names(config: RunConfig) -> None:
    from fleke_flwr.apps.experiment import check_editors, check_kinds
    from fleke_flwr.apps.trackers import tracker_kinds
    from fleke_flwr.data.augmentation import AUGMENTATIONS, known_templates
    from fleke_flwr.editors.base import EDITORS
    from fleke_flwr.strategies import STRATEGIES

    for name in config.strategy_names:
        STRATEGIES.get(name)
    known = {option for name in config.editor_names for option in EDITORS.get(name).options}
    for option in named_texts("edit.options", config.edit.options):
        if option not in known:
            raise ConfigError(f"edit.options: {unknown('option', option, known)}")
    tracker_kinds(config)
    for _, variant in config.variants:
        kinds = {name: STRATEGIES.get(name) for name in variant.strategy_names}
        check_kinds(kinds, variant)
        check_editors(kinds, variant)
        AUGMENTATIONS.get(variant.conflict.augmentation)
        known_templates(variant.conflict.templates, [])
    if config.covariance.corpus and not Path(config.covariance.corpus).is_file():
        raise ConfigError(f"covariance.corpus = {config.covariance.corpus}: no such file")
    if config.evaluation.text and not Path(config.evaluation.text).is_file():
        raise ConfigError(f"evaluation.text = {config.evaluation.text}: no such file")


def _check_deployable(config: RunConfig) -> None:
    from fleke_flwr.strategies import STRATEGIES

    for name in config.strategy_names:
        if STRATEGIES.get(name).pooled:
            raise ConfigError(
                f"strategy {name!r} pools the records of all clients and exists in simulation "
                "only; choose another strategy for a federation"
            )


def _check_records(config: RunConfig) -> None:
    from fleke_flwr.data.benchmarks import load_cases
    from fleke_flwr.data.partition import partition_cases
    from fleke_flwr.evaluation.references import fitted

    if not config.data.path:
        raise ConfigError("no records: give data.path=FILE, or data.path=embedded")
    for _, variant in config.variants:
        cases, wanted = load_cases(variant.data).cases, variant.data.edits
        found = len(cases)
        if found < wanted:
            raise DataError(
                f"{config.data.path} holds {found} usable records and {wanted} edits are asked "
                "for; lower data.edits"
            )
        if (wanted or found) < variant.clients:
            raise DataError(
                f"{wanted or found} records cannot be shared by {variant.clients} clients; "
                "lower clients"
            )
        partition_cases(cases, variant.data, variant.clients, variant.seed)
    if config.evaluation.generate_every and config.evaluation.idf:
        fitted(config.evaluation.idf)

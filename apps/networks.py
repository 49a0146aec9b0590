"""Where a run finds the trained networks of its editors, and which subjects they have seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fleke_flwr.apps.presets import settings_of
from fleke_flwr.apps.priors import cache_directory
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.editors.hyper.method import HyperMethod
from fleke_flwr.editors.hyper.storage import CARD, content_hash, find_network, load_network
from fleke_flwr.editors.hyper.subjects import without_trained
from fleke_flwr.errors import DataError
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EvalCase
from fleke_flwr.values import named_texts


def with_network(spec: EditSpec, config: RunConfig, model: EditableModel) -> EditSpec:
    """Return the recipe with the network that is meant and its hash, if its editor needs one.

    Raises
    ------
    ConfigError
        If there is none, with the command that makes one.
    DataError
        If the directory that is named holds none.
    """
    kind = EDITORS.get(spec.editor)
    if not issubclass(kind, HyperMethod):
        return spec
    named = str(spec.options["network"])
    place = find_network(kind.name, model, named, cache_directory(config))
    hashed = spec.options["network-hash"] or content_hash(place)
    return replace(spec, options={**spec.options, "network": str(place), "network-hash": hashed})


def with_own_network(spec: EditSpec, config: RunConfig, model: EditableModel, own: str) -> EditSpec:
    """Return a server's recipe with the place where this node has the network.

    That is ``network-path`` of the node's configuration, the server's place if it is there on this
    machine, too, or where networks of this model are looked for. Whether it is the same network
    is checked by its hash.

    Parameters
    ----------
    spec : EditSpec
        As it came from the server.
    config : RunConfig
        The run's, with this node's values.
    model : EditableModel
        The node's.
    own : str
        ``network-path`` of the node's configuration; empty when not set.
    """
    kind = EDITORS.get(spec.editor)
    if not issubclass(kind, HyperMethod):
        return spec
    place = _place(kind.name, config, model, own, str(spec.options["network"]))
    return replace(spec, options={**spec.options, "network": str(place)})


def trained_subjects(config: RunConfig, model: EditableModel, own: str = "") -> frozenset[int]:
    """Return digests of the subjects that networks of a run's editors were trained on.

    Records about them are left out of the run, for every editor of it alike; see
    :func:`fleke_flwr.editors.hyper.subjects.without_trained`.

    Parameters
    ----------
    config : RunConfig
        Its editors and where their network is.
    model : EditableModel
        The base model.
    own : str
        ``network-path`` of a node's configuration; empty when not set.
    """
    found: frozenset[int] = frozenset()
    for name, named in _networks(config, model):
        place = _place(name, config, model, own, named)
        found |= load_network(place, name, model).trained
    return found


def _place(name: str, config: RunConfig, model: EditableModel, own: str, theirs: str) -> Path:
    """Return where a node has a network; the server's place counts if it is there here, too."""
    is_here = bool(theirs) and (Path(theirs).expanduser() / CARD).is_file()
    return find_network(name, model, own or (theirs if is_here else ""), cache_directory(config))


def _networks(config: RunConfig, model: EditableModel) -> Iterator[tuple[str, str]]:
    """Yield the editors with a network, and the directory that was named for it."""
    given = named_texts("edit.options", config.edit.options).get("network", "")
    for editor in config.editor_names:
        kind = EDITORS.get(editor)
        if issubclass(kind, HyperMethod):
            yield kind.name, given or str(settings_of(config, model, editor).get("network", ""))


def editable_cases(config: RunConfig, model: EditableModel, own: str = "") -> list[EvalCase]:
    """Return the records of ``data.path`` that no network of the run's editors has been trained on.

    Raises
    ------
    DataError
        If the records cannot be used, or none is left.
    """
    records = load_cases(config.data)
    left, dropped = without_trained(records.cases, trained_subjects(config, model, own))
    if not left:
        raise DataError(
            f"{records.name}: all {dropped} records are about subjects that the network was "
            "trained on; give other records, or train on a smaller share (--set train-share=0.3)"
        )
    return left


def left_out_note(config: RunConfig, model: EditableModel) -> str:
    """Say how many records a run leaves out, and why; an empty text when none."""
    records = load_cases(config.data)
    _, dropped = without_trained(records.cases, trained_subjects(config, model))
    if not dropped:
        return ""
    return (
        f"{dropped} of {len(records.cases)} records left out: the editor's network was trained on "
        "their subjects"
    )

"""A trained network on disk: tensors in safetensors, everything about them in JSON beside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fleke_flwr.artifacts import read_json, read_tensors, write_json, write_tensors
from fleke_flwr.editors.hyper.network import NETWORKS, HyperNetwork
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.models import EditableModel

TENSORS, CARD = "network.safetensors", "network.json"
_SCHEMA = 1
_SUBJECTS = "trained_subjects"
_NEEDED = (
    "editor",
    "fingerprint",
    "layers",
    "modules",
    "rank",
    "tokens",
    "tensors_sha256",
)


@dataclass(frozen=True)
class StoredNetwork:
    """A network as it was read.

    Parameters
    ----------
    directory : Path
        Where it lies.
    network : HyperNetwork
        In float64, frozen.
    card : Mapping[str, Any]
        Content of its JSON file.
    content_hash : str
        16 hexadecimal digits of that file, which holds the tensors' own.
    trained : frozenset[int]
        Digests of the subjects it was trained or validated on.
    """

    directory: Path
    network: HyperNetwork
    card: Mapping[str, Any]
    content_hash: str
    trained: frozenset[int]


def training_command(editor: str, model: str) -> str:
    """Return the command that makes a network."""
    return f"fleke train-editor CONFIG model={model} --editor {editor}"


def save_network(
    directory: Path, network: HyperNetwork, card: Mapping[str, Any], trained: list[int]
) -> None:
    """Write a network; one that is broken off in between is refused by :func:`load_network`."""
    tensors = {name: tensor.float() for name, tensor in network.state_dict().items()}
    tensors[_SUBJECTS] = torch.tensor(sorted(trained), dtype=torch.int64)
    write_tensors(directory / TENSORS, tensors)
    modules = {name: list(shape) for name, shape in network.shapes.items()}
    whole = {
        "schema": _SCHEMA,
        **card,
        "modules": modules,
        "rank": network.rank,
        "tensors_sha256": _sha256(directory / TENSORS),
    }
    write_json(directory / CARD, whole)


def find_network(editor: str, model: EditableModel, option: str, cache_directory: Path) -> Path:
    """Return the directory of a network: the given one, the model's own, or the cache's.

    Raises
    ------
    ConfigError
        If there is none, with the command that makes one.
    """
    if option:
        return Path(option).expanduser().resolve()
    places = [cached_network(editor, model, cache_directory)]
    if model.directory is not None:
        places.insert(0, model.directory / editor)
    for place in places:
        if (place / CARD).exists():
            return place.resolve()
    raise ConfigError(
        f"no {editor} network for model {model.name!r} in {' or '.join(map(str, places))}; make "
        f"one: {training_command(editor, model.name)}"
    )


def cached_network(editor: str, model: EditableModel, cache_directory: Path) -> Path:
    """Return where the network of a model is kept unless it is put elsewhere."""
    return cache_directory / "networks" / f"{editor}-{model.fingerprint}"


def content_hash(directory: Path) -> str:
    """Return the 16 hexadecimal digits by which clients know that they use the same network.

    Raises
    ------
    DataError
        If the directory holds no network.
    """
    return _sha256(directory / CARD)[:16]


def load_network(directory: Path, editor: str, model: EditableModel) -> StoredNetwork:
    """Read a network and refuse one that is damaged or does not belong to the model.

    Raises
    ------
    DataError
        If a file is missing, damaged, or half of the two was written.
    ConfigError
        If it is another editor's or another model's.
    """
    found = _read(directory, content_hash(directory))
    card, command = found.card, training_command(editor, model.name)
    if card["editor"] != editor:
        raise ConfigError(
            f"{directory}: a network of {card['editor']}, but the editor is {editor}; make one: "
            f"{command}"
        )
    if card["fingerprint"] != model.fingerprint:
        raise ConfigError(
            f"{directory}: a network for model {card['fingerprint']}, but {model.name!r} is "
            f"{model.fingerprint}; make one: {command}"
        )
    for module, shape in found.network.shapes.items():
        if model.shape_of(module) != shape:
            raise ConfigError(
                f"{directory}: module {module} is {shape} there and {model.shape_of(module)} in "
                f"model {model.name!r}; make a new network: {command}"
            )
    return found


@lru_cache(maxsize=4)
def _read(directory: Path, hashed: str) -> StoredNetwork:
    card = read_json(directory / CARD)
    missing = (
        [name for name in _NEEDED if name not in card] if isinstance(card, dict) else list(_NEEDED)
    )
    if missing or card.get("schema") != _SCHEMA or card["editor"] not in NETWORKS:
        raise DataError(
            f"{directory / CARD}: not the card of a network (schema {_SCHEMA}; missing: "
            f"{', '.join(missing) or 'nothing'}); {_remedy()}"
        )
    if not (directory / TENSORS).is_file():
        raise DataError(f"{directory / TENSORS}: no such file; {_remedy()}")
    if _sha256(directory / TENSORS) != card["tensors_sha256"]:
        raise DataError(
            f"{directory}: {TENSORS} is not the one that {CARD} was written with, for example "
            f"because writing was broken off; {_remedy()}"
        )
    tensors, _ = read_tensors(directory / TENSORS)
    trained = frozenset(tensors.pop(_SUBJECTS, torch.empty(0)).tolist())
    network = network_of(card, tensors, directory)
    network.double().requires_grad_(False)
    return StoredNetwork(directory, network, card, hashed, trained)


def network_of(
    card: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], place: Path
) -> HyperNetwork:
    """Build the network that a card describes from its tensors.

    Raises
    ------
    DataError
        If they do not fit together.
    """
    shapes = {name: (int(shape[0]), int(shape[1])) for name, shape in card["modules"].items()}
    network = NETWORKS[str(card["editor"])](shapes, int(card["rank"]))
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise DataError(f"{place}: tensors and card do not fit ({error}); {_remedy()}") from error
    return network


def _remedy() -> str:
    return "train it again with fleke train-editor, or copy both files again"


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); make a network with fleke train-editor, "
            "or name its directory: edit.options=network=DIR"
        ) from error

"""Orders from the server to clients, and the edit state that they refer to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fleke_flwr.errors import DataError, PayloadError
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import EditState, tensors_of, updates_of
from fleke_flwr.types import LayerUpdate
from fleke_flwr.values import Scalar
from fleke_flwr.wire.tensors import (
    SCHEMA,
    array_record,
    config_record,
    matrix,
    pack_tensors,
    read_count,
    read_json,
    shown,
    unpack_tensors,
)

ALL_EDITS, WITHDRAWN, ADDED = "all", "withdrawn", "added"

# What an order and a recipe are made of, in the types of JSON.
_FIELDS: Mapping[str, type] = {
    "schema": int,
    "base": str,
    "merged": int,
    "spec": str,
    "variant": str,
    "round": int,
    "sweep": int,
    "exchange": int,
    "rounds": int,
    "settings": dict,
    "reply": str,
    "pooled": bool,
    "encoding": str,
    "dtype": str,
    "round_state": str,
    "on_base": bool,
    "cumulative": bool,
    "part": str,
    "options": dict,
    "first": int,
}
_SPEC_FIELDS: Mapping[str, type] = {
    "editor": str,
    "mode": str,
    "layers": list,
    "ridge_weight": float,
    "spread": str,
    "learning_rate": float,
    "steps": int,
    "clamp": float,
    "weight_decay": float,
    "kl_weight": float,
    "stop_loss": float,
    "contexts": list,
    "options": dict,
    "batch_tokens": int,
}


@dataclass(frozen=True)
class TrainOrder:
    """What the server asks of a client in one exchange.

    Parameters
    ----------
    spec : EditSpec
        The shared recipe.
    variant : str
        Name of the variant that runs, under which clients keep what they remember.
    round, sweep, exchange : int
        Round (from 1), sweep inside it and exchange inside the sweep (from 0).
    rounds : int
        Number of rounds the clients' records are spread over.
    settings : Mapping[str, Scalar]
        Config keys in which this variant differs from the run's configuration.
    reply : str
        ``statistics`` or ``updates``.
    pooled : bool
        Whether this client edits the records of all clients together (simulation only).
    encoding, dtype : str
        How statistics are sent.
    round_state : str
        Fingerprint of the state at the start of the sweep, to which target vectors belong.
    on_base : bool
        Whether the statistics are those of the unedited model, whatever state is sent.
    first : int
        First round whose requests are fresh: this one, or the one after the last in which the
        client's contribution was merged.
    cumulative : bool
        Whether the requests of all rounds so far are meant, not the fresh ones alone.
    part : str
        ``all`` of these requests, or what a settled conflict takes back (``withdrawn``) or adds
        (``added``).
    options : Mapping[str, Scalar]
        What the strategy itself asks of its clients.
    """

    spec: EditSpec
    variant: str
    round: int
    sweep: int
    exchange: int
    rounds: int
    settings: Mapping[str, Scalar]
    reply: str
    pooled: bool
    encoding: str
    dtype: str
    round_state: str
    on_base: bool = False
    cumulative: bool = False
    part: str = ALL_EDITS
    options: Mapping[str, Scalar] = field(default_factory=dict)
    first: int = 1

    @property
    def place(self) -> str:
        """Which order of the run this is: an answer to another one is an old message."""
        return f"{self.round}.{self.sweep}.{self.exchange}.{self.part}"


def write_order(order: TrainOrder, state: EditState) -> RecordDict:
    """Pack an order and the state it refers to into the content of a message."""
    content = {**asdict(order), "spec": order.spec.to_json(), "schema": SCHEMA}
    config = ConfigRecord(
        {
            "json": json.dumps({**content, "base": state.base, "merged": state.round}),
            "server-round": order.round,
        }
    )
    return RecordDict({"state": write_state(state), "config": config})


def read_order(content: RecordDict) -> tuple[TrainOrder, EditState]:
    """Unpack :func:`write_order`.

    Raises
    ------
    PayloadError
        If something is missing, too much, or of another type than it is sent in.
    """
    content_fields = read_json(config_record(content, "config"), "order")
    found = _typed(content_fields, _FIELDS, "the order")
    if found["schema"] != SCHEMA:
        raise PayloadError(
            f"the order has schema {found['schema']} and this node speaks {SCHEMA}; "
            "install the same version of fleke-flwr on all nodes"
        )
    updates = read_updates(array_record(content, "state"))
    state = EditState(found["base"], found["merged"], updates)
    for name in ("settings", "options"):
        _check_scalars(found[name], name)
    kept = {name: found[name] for name in _FIELDS if name not in ("schema", "base", "merged")}
    return TrainOrder(**{**kept, "spec": _spec(found["spec"])}), state


def _typed(found: Mapping[str, Any], wanted: Mapping[str, type], what: str) -> dict[str, Any]:
    """Return fields that are exactly these, counts not negative, numbers finite."""
    if set(found) != set(wanted):
        different = sorted(set(found) ^ set(wanted))
        raise PayloadError(f"{what} lacks, or has too much: {shown(different)}")
    return {name: _field(found[name], kind, f"{what}: {name}") for name, kind in wanted.items()}


def _field(value: Any, kind: type, what: str) -> Any:
    if kind is int:
        return read_count(value, what)
    if kind is float:
        return _number(value, what)
    if type(value) is not kind:
        raise PayloadError(f"{what} is {shown(value)}; {kind.__name__} is needed")
    return value


def _number(value: object, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise PayloadError(f"{what} is {shown(value)}; a number is needed")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PayloadError(f"{what} is {shown(value)}; a finite number is needed")
    return number


def _check_scalars(found: Mapping[str, object], what: str) -> None:
    for name, value in found.items():
        if not isinstance(value, bool | int | float | str):
            raise PayloadError(f"{what}: {shown(name)} is {shown(value)}; a plain value is needed")


def _spec(text: str) -> EditSpec:
    """Read a recipe whose fields are all there and of their types."""
    fields_ = _typed(read_json(ConfigRecord({"json": text}), "recipe"), _SPEC_FIELDS, "the recipe")
    layers = tuple(read_count(layer, "the recipe: a layer") for layer in fields_["layers"])
    if not layers or list(layers) != sorted(set(layers)):
        raise PayloadError(f"the recipe: layers {shown(layers)} are not ascending and distinct")
    contexts = fields_["contexts"]
    if not contexts or not all(isinstance(c, str) and c.count("{}") == 1 for c in contexts):
        raise PayloadError("the recipe: every context is a text with one {}")
    _check_scalars(fields_["options"], "the recipe: options")
    return EditSpec(**{**fields_, "layers": layers, "contexts": tuple(contexts)})


def write_state(state: EditState) -> ArrayRecord:
    """Turn the updates of a state into arrays."""
    return pack_tensors(
        {
            f"{module}/{part}": tensor
            for module, update in state.updates.items()
            for part, tensor in tensors_of(update).items()
        }
    )


def read_updates(arrays: ArrayRecord) -> dict[str, LayerUpdate]:
    """Rebuild updates from arrays, in the precision in which they came.

    Raises
    ------
    PayloadError
        If an array is damaged or not finite, or an update is incomplete.
    """
    kept = {name: matrix(name, tensor) for name, tensor in unpack_tensors(arrays).items()}
    try:
        return updates_of(kept)
    except DataError as error:
        raise PayloadError(shown(str(error))) from error

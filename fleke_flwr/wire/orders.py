"""Orders from the server to clients, and the edit state that they refer to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fleke_flwr.errors import DataError, PayloadError
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import EditState, tensors_of, updates_of
from fleke_flwr.types import LayerUpdate
from fleke_flwr.values import Scalar
from fleke_flwr.wire.tensors import SCHEMA, pack_tensors, read_json, unpack_tensors

ALL_EDITS, WITHDRAWN, ADDED = "all", "withdrawn", "added"


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
    cumulative : bool
        Whether the requests of all rounds so far are meant, not of this one alone.
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
    """Unpack :func:`write_order`."""
    fields = read_json(content.config_records["config"], "order")
    state = EditState(
        fields.pop("base"), fields.pop("merged"), read_updates(content.array_records["state"])
    )
    fields.pop("schema")
    return TrainOrder(**{**fields, "spec": EditSpec.from_json(fields["spec"])}), state


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
    """Rebuild updates from arrays."""
    try:
        return updates_of(unpack_tensors(arrays))
    except DataError as error:
        raise PayloadError(str(error)) from error

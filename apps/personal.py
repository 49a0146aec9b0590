"""A client's own model: what it keeps between the messages of FedEdit, as vectors and updates."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fleke_flwr import wire
from fleke_flwr.editors.base import Editor
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.state import EditState
from fleke_flwr.types import LayerUpdate, MemoryVectors
from fleke_flwr.wire import Received, TrainOrder

_OWN, _RECEIVED, _UPDATES, _ABOUT = (
    f"personal-{part}" for part in ("own", "received", "updates", "about")
)


@dataclass
class PersonalModel:
    """The base model of a client with what it has edited and taken over.

    Parameters
    ----------
    own : MemoryVectors
        Vectors of its own edits so far, in the order of its records.
    received : Received
        The others' edits it has taken.
    slots : int
        Slots whose own records are edited.
    latest : int
        Where the edits of the latest slot begin in ``own``.
    updates : dict[str, LayerUpdate]
        Total change of the weights, by module.
    """

    own: MemoryVectors
    received: Received
    slots: int = 0
    latest: int = 0
    updates: dict[str, LayerUpdate] = field(default_factory=dict)

    @property
    def compared(self) -> MemoryVectors:
        """Own vectors that the re-edit condition looks at: the latest slot's, or all if none."""
        count = len(self.own)
        start = self.latest if self.latest < count else 0
        return self.own.rows(torch.arange(start, count))

    def unknown(self, received: Received) -> Received:
        """Leave out edits that were taken before: a message may come twice."""
        held = set(zip(self.received.sender.tolist(), self.received.place.tolist(), strict=True))
        pairs = zip(received.sender.tolist(), received.place.tolist(), strict=True)
        return received.rows(torch.tensor([pair not in held for pair in pairs], dtype=torch.bool))

    def state(self, base: str) -> EditState:
        """Return the personal model as an edit state."""
        return EditState(base, self.slots, self.updates)


def load_personal(
    memory: RecordDict, order: TrainOrder, model: EditableModel, editor: Editor
) -> PersonalModel:
    """Read a client's model from its Flower state; a new variant of a run starts a new one.

    Parameters
    ----------
    memory : RecordDict
        ``context.state`` of the node.
    order : TrainOrder
        The running order, which says which variant this is.
    model, editor
        For the widths of an empty memory.
    """
    about = memory.config_records.get(_ABOUT)
    if about is None or about["variant"] != variant_of(order):
        return _new(model, editor)
    received = {
        name: _wide(tensor)
        for name, tensor in wire.unpack_tensors(memory.array_records[_RECEIVED]).items()
    }
    own = wire.unpack_tensors(memory.array_records[_OWN])
    texts = json.loads(str(about["texts"]))
    return PersonalModel(
        own=wire.unpack_vectors({name: _wide(tensor) for name, tensor in own.items()}),
        received=Received(
            wire.unpack_vectors(received),
            received["sender"],
            received["place"],
            tuple((prompt, subject, target) for prompt, subject, target in texts),
        ),
        slots=int(str(about["slots"])),
        latest=int(str(about["latest"])),
        updates=wire.read_updates(memory.array_records[_UPDATES]),
    )


def save_personal(
    personal: PersonalModel, memory: RecordDict, order: TrainOrder, base: str
) -> None:
    """Write a client's model to its Flower state."""
    received = personal.received
    memory[_OWN] = wire.pack_tensors(_narrow(wire.pack_vectors(personal.own), order))
    memory[_RECEIVED] = wire.pack_tensors(
        {
            **_narrow(wire.pack_vectors(received.vectors), order),
            "sender": received.sender,
            "place": received.place,
        }
    )
    memory[_UPDATES] = wire.write_state(personal.state(base))
    memory[_ABOUT] = ConfigRecord(
        {
            "variant": variant_of(order),
            "slots": personal.slots,
            "latest": personal.latest,
            "texts": json.dumps(received.texts),
        }
    )


def rounded(vectors: MemoryVectors, order: TrainOrder) -> MemoryVectors:
    """Return vectors as they will be read again from the state or the wire, in float64."""
    narrow = _narrow(wire.pack_vectors(vectors), order)
    return wire.unpack_vectors({name: tensor.double() for name, tensor in narrow.items()})


def variant_of(order: TrainOrder) -> str:
    """Hash what tells the variants of one run apart."""
    parts = [order.spec.to_json(), order.rounds, dict(order.settings), dict(order.options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _new(model: EditableModel, editor: Editor) -> PersonalModel:
    widths = {model.module_name(layer): model.input_width(layer) for layer in editor.spec.layers}

    def empty(modules: dict[str, int]) -> MemoryVectors:
        vectors = torch.zeros(0, model.d_model, dtype=torch.float64)
        keys = {
            module: torch.zeros(0, width, dtype=torch.float64) for module, width in modules.items()
        }
        return MemoryVectors(vectors, vectors, keys)

    nobody = torch.zeros(0, dtype=torch.int64)
    return PersonalModel(empty(widths), Received(empty(widths), nobody, nobody))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _narrow(tensors: dict[str, Tensor], order: TrainOrder) -> dict[str, Tensor]:
    """Keep vectors in the precision in which they travel, so that a client's own are no better."""
    chosen = torch.float64 if order.dtype == "float64" else torch.float32
    return {name: tensor.to(chosen) for name, tensor in tensors.items()}

"""What the server of FedEdit remembers: uploads by slot, and who has been handed what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from fleke_flwr import wire
from fleke_flwr.wire import Received, SharedVectors


@dataclass(frozen=True)
class Upload:
    """One client's vectors of one slot."""

    slot: int
    sender: int
    shared: SharedVectors

    def received(self) -> Received:
        """Return the edits numbered, as they are handed out."""
        count = len(self.shared.vectors)
        first = self.shared.first
        return Received(
            self.shared.vectors,
            torch.full((count,), self.sender, dtype=torch.int64),
            torch.arange(first, first + count, dtype=torch.int64),
            self.shared.texts,
        )


class VectorStore:
    """Uploads in the order of slots and clients.

    Source: FedLEKE, algorithm 1: the server hands out what was stored since the client's last slot.
    A client that misses a slot therefore finds that slot's vectors when it comes back.
    """

    def __init__(self) -> None:
        self._uploads: list[Upload] = []
        self._served: dict[int, int] = {}

    def add(self, slot: int, sender: int, shared: SharedVectors) -> bool:
        """Keep an upload; one without edits leaves nothing.

        Returns
        -------
        bool
            Whether the sender starts over: with its first edit again, as a node does that was
            started anew and keeps no files. It is then handed everything once more.
        """
        if not len(shared.vectors):
            return False
        over = shared.first == 0 and any(upload.sender == sender for upload in self._uploads)
        if over:
            self._served.pop(sender, None)
        self._uploads.append(Upload(slot, sender, shared))
        return over

    def waiting(self, client: int) -> Received | None:
        """Return the others' edits that a client has not been handed yet; ``None`` if none."""
        since = self._served.get(client, 0)
        found: Sequence[Received] = [
            upload.received()
            for upload in self._uploads
            if upload.slot > since and upload.sender != client
        ]
        return reduce(add, found) if found else None

    def served(self, client: int, slot: int) -> None:
        """Note that a client has been handed everything up to a slot."""
        self._served[client] = slot

    def packed(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything as tensors and JSON, for a file."""
        tensors = {
            f"{place}/{name}": tensor
            for place, upload in enumerate(self._uploads)
            for name, tensor in wire.pack_vectors(upload.shared.vectors).items()
        }
        uploads = [
            {
                "slot": upload.slot,
                "sender": upload.sender,
                "first": upload.shared.first,
                "texts": upload.shared.texts,
            }
            for upload in self._uploads
        ]
        return tensors, {"uploads": uploads, "served": dict(self._served)}

    @classmethod
    def unpacked(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> VectorStore:
        """Rebuild :meth:`packed`."""
        store = cls()
        for place, entry in enumerate(about["uploads"]):
            prefix = f"{place}/"
            named = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            texts = tuple((prompt, subject, target) for prompt, subject, target in entry["texts"])
            shared = SharedVectors(wire.unpack_vectors(named), entry["first"], texts)
            store._uploads.append(Upload(entry["slot"], entry["sender"], shared))
        store._served = {int(client): slot for client, slot in about["served"].items()}
        return store

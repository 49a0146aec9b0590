"""What the server of FedEdit remembers: uploads by slot, and who has been handed what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch

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

    def add(self, slot: int, sender: int, shared: SharedVectors) -> None:
        """Keep an upload; one without edits leaves nothing."""
        if len(shared.vectors):
            self._uploads.append(Upload(slot, sender, shared))

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

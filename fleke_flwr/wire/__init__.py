"""What travels: orders to clients, their contributions, sums of measurements.

A reply to ``train.edit`` holds one ArrayRecord ``payload``, one MetricRecord ``metrics`` and one
ConfigRecord ``meta`` whose ``json`` names schema, base model, state, editor, mode and encoding.
Everything is checked on receipt; a reply that fails is refused with the reason, never repaired.
"""

from __future__ import annotations

from fleke_flwr.wire.costs import read_costs
from fleke_flwr.wire.orders import (
    ADDED,
    ALL_EDITS,
    WITHDRAWN,
    TrainOrder,
    read_order,
    read_updates,
    write_order,
    write_state,
)
from fleke_flwr.wire.payloads import (
    STATISTICS,
    UPDATES,
    Expected,
    read_payload,
    write_payload,
)
from fleke_flwr.wire.sums import (
    ALL,
    FIRST,
    OWN,
    PAIRS,
    RECEIVED,
    UNRELATED,
    Sums,
    add_sums,
    read_groups,
    read_sums,
    write_groups,
    write_sums,
)
from fleke_flwr.wire.tensors import num_bytes, pack_tensors, unpack_tensors
from fleke_flwr.wire.vectors import (
    ExpectedVectors,
    Received,
    SharedVectors,
    pack_vectors,
    read_received,
    read_vectors,
    unpack_vectors,
    write_received,
    write_vectors,
)
from fleke_flwr.wire.verdicts import (
    Claim,
    Verdict,
    read_claims,
    read_tags,
    read_verdict,
    write_claims,
    write_tags,
    write_verdict,
)

__all__ = [
    "ADDED",
    "ALL",
    "ALL_EDITS",
    "FIRST",
    "OWN",
    "PAIRS",
    "RECEIVED",
    "STATISTICS",
    "UNRELATED",
    "UPDATES",
    "WITHDRAWN",
    "Claim",
    "Expected",
    "ExpectedVectors",
    "Received",
    "SharedVectors",
    "Sums",
    "TrainOrder",
    "Verdict",
    "add_sums",
    "num_bytes",
    "pack_tensors",
    "pack_vectors",
    "read_claims",
    "read_costs",
    "read_groups",
    "read_order",
    "read_payload",
    "read_received",
    "read_sums",
    "read_tags",
    "read_updates",
    "read_vectors",
    "read_verdict",
    "unpack_tensors",
    "unpack_vectors",
    "write_claims",
    "write_groups",
    "write_order",
    "write_payload",
    "write_received",
    "write_state",
    "write_sums",
    "write_tags",
    "write_vectors",
    "write_verdict",
]

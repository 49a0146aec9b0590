"""A client's statistics or updates, checked on receipt.

Encodings of statistics: ``factors`` sends ``U`` per projection and one ``F`` per group (the
projections of a ``joint`` group share one rotation); ``dense`` sends ``(S, B)``. CollabEdit's
text sends ``(Delta_i, K_i K_i^T)``: ``B = Delta_i (C + S_i)`` makes the two equivalent and equally
large, and ``B`` needs no solve at the client and no prior at the receiver to be added up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fleke_flwr.errors import DataError, PayloadError
from fleke_flwr.state import tensors_of, updates_of
from fleke_flwr.types import EditPayload, LayerStatistics, LayerUpdate, group_modules
from fleke_flwr.wire.tensors import (
    DTYPES,
    SCHEMA,
    checked,
    pack_tensors,
    read_json,
    unpack_tensors,
)

STATISTICS = "statistics"
UPDATES = "updates"


def write_payload(payload: EditPayload, encoding: str, dtype: str) -> RecordDict:
    """Pack a client's contribution; the caller adds the ``metrics`` record.

    ``dtype`` is ``float32``, ``float64`` or ``auto``: factors and updates in float32, whose
    rounding error is that of the format, dense sums in float64, whose error would grow with the
    condition of the prior.
    """
    chosen = DTYPES.get(dtype) or (torch.float64 if encoding == "dense" else torch.float32)
    tensors: dict[str, Tensor] = {}
    for group, statistics in payload.statistics.items():
        tensors.update(_pack_statistics(group, statistics, encoding))
    for module, update in payload.updates.items():
        tensors.update({f"{module}/{part}": t for part, t in tensors_of(update).items()})
    meta = {
        "schema": SCHEMA,
        "base": payload.base,
        "state": payload.state,
        "editor": payload.editor,
        "mode": payload.mode,
        "edits": payload.num_edits,
        "kind": STATISTICS if payload.statistics else UPDATES,
        "encoding": encoding,
        "groups": {
            group: {"count": statistics.count} for group, statistics in payload.statistics.items()
        },
    }
    return RecordDict(
        {
            "payload": pack_tensors({name: tensor.to(chosen) for name, tensor in tensors.items()}),
            "meta": ConfigRecord({"json": json.dumps(meta)}),
        }
    )


@dataclass(frozen=True)
class Expected:
    """What a good contribution to the running exchange looks like.

    Parameters
    ----------
    base, state, editor, mode, kind, encoding : str
        Must equal what the reply says.
    groups : tuple[str, ...]
        Names of the groups (for statistics) or modules (for updates), in order.
    widths : Mapping[str, int]
        Input width by module.
    d_out : int
        Output width of the edited projections.
    """

    base: str
    state: str
    editor: str
    mode: str
    kind: str
    encoding: str
    groups: tuple[str, ...]
    widths: Mapping[str, int]
    d_out: int


def read_payload(content: RecordDict, expected: Expected) -> EditPayload:
    """Unpack and check a client's contribution.

    Raises
    ------
    PayloadError
        If a record is missing, or schema, base model, state, editor, mode, names, shapes or dtypes
        differ from what the exchange expects, or a number is not finite.
    """
    for kind, name in (("array_records", "payload"), ("config_records", "meta")):
        if name not in getattr(content, kind):
            raise PayloadError(f"the reply has no record {name!r}")
    meta = read_json(content.config_records["meta"], "reply")
    _check_meta(meta, expected)
    tensors = {
        name: checked(name, tensor)
        for name, tensor in unpack_tensors(content.array_records["payload"]).items()
    }
    statistics: dict[str, LayerStatistics] = {}
    updates: dict[str, LayerUpdate] = {}
    if expected.kind == STATISTICS:
        for group in expected.groups:
            statistics[group] = _unpack_statistics(group, tensors, meta, expected)
    else:
        updates = _unpack_updates(tensors, expected)
    return EditPayload(
        base=expected.base,
        state=expected.state,
        editor=expected.editor,
        mode=expected.mode,
        num_edits=int(meta["edits"]),
        statistics=statistics,
        updates=updates,
    )


def _check_meta(meta: Mapping[str, Any], expected: Expected) -> None:
    if meta.get("schema") != SCHEMA:
        raise PayloadError(
            f"payload schema {meta.get('schema')!r}, this server speaks {SCHEMA}; "
            "install the same version of fleke-flwr on all nodes"
        )
    hints = {
        "base": "the client holds another base model (or another version of it)",
        "state": "the client worked on another state: an old message, or a damaged one",
        "editor": "the client ran another editor",
        "mode": "the client ran another mode",
        "kind": "the client sent another kind of contribution",
        "encoding": "the client used another encoding",
    }
    for key, hint in hints.items():
        if meta.get(key) != getattr(expected, key):
            raise PayloadError(
                f"{key} is {meta.get(key)!r}, expected {getattr(expected, key)!r}: {hint}"
            )
    edits = meta.get("edits")
    if not isinstance(edits, int) or edits < 0:
        raise PayloadError(f"edits is {edits!r}; a count is needed")


def _pack_statistics(group: str, statistics: LayerStatistics, encoding: str) -> dict[str, Tensor]:
    if encoding == "dense":
        gram, cross = statistics.sums()
        return {f"{group}/gram": gram, f"{group}/cross": cross}
    keys, residuals = statistics.factors()
    return {f"{group}/keys": keys, f"{group}/residuals": residuals}


def _unpack_statistics(
    group: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], expected: Expected
) -> LayerStatistics:
    d_in = sum(expected.widths[module] for module in group_modules(group))
    parts = ("gram", "cross") if expected.encoding == "dense" else ("keys", "residuals")
    first, second = (tensors.get(f"{group}/{part}") for part in parts)
    if first is None or second is None:
        raise PayloadError(f"group {group!r} lacks {' or '.join(parts)}")
    rank = first.shape[1] if first.ndim == 2 else -1
    wanted = (
        ((d_in, d_in), (expected.d_out, d_in))
        if expected.encoding == "dense"
        else ((d_in, rank), (expected.d_out, rank))
    )
    for part, tensor, shape in zip(parts, (first, second), wanted, strict=True):
        if tuple(tensor.shape) != shape:
            raise PayloadError(
                f"{group!r} {part} has shape {tuple(tensor.shape)}, expected {shape}"
            )
    count = int(meta["groups"].get(group, {}).get("count", meta["edits"]))
    if expected.encoding == "dense":
        return LayerStatistics(count, gram=first, cross=second)
    if rank > d_in:
        raise PayloadError(f"{group!r} keys have {rank} columns for {d_in} rows: not compressed")
    return LayerStatistics(count, keys=first, residuals=second)


def _unpack_updates(tensors: Mapping[str, Tensor], expected: Expected) -> dict[str, LayerUpdate]:
    try:
        updates = updates_of(tensors)
    except DataError as error:
        raise PayloadError(str(error)) from error
    if set(updates) != set(expected.groups):
        raise PayloadError(f"updates of {sorted(updates)}, expected {sorted(expected.groups)}")
    for module, update in updates.items():
        shape = (expected.d_out, expected.widths[module])
        if update.shape != shape:
            raise PayloadError(f"update of {module!r} has shape {update.shape}, expected {shape}")
    return {module: updates[module] for module in expected.groups}

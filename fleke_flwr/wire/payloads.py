"""A client's statistics or updates, checked on receipt.

Encodings of statistics: ``factors`` sends ``U`` per projection and one ``F`` per group (the
projections of a ``joint`` group share one rotation); ``dense`` sends ``(S, B)``. CollabEdit's
text sends ``(Delta_i, K_i K_i^T)``: ``B = Delta_i (C + S_i)`` makes the two equivalent and equally
large, and ``B`` needs no solve at the client and no prior at the receiver to be added up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    array_record,
    config_record,
    pack_tensors,
    read_count,
    read_json,
    read_matrices,
    shown,
)

STATISTICS = "statistics"
UPDATES = "updates"

# Largest difference of two entries of dense sums that should be equal, relative to the largest one:
# float32 rounds both alike.
_ASYMMETRY = 1e-6


def write_payload(payload: EditPayload, encoding: str, dtype: str, place: str = "") -> RecordDict:
    """Pack a client's contribution; the caller adds the ``metrics`` record.

    ``dtype`` is ``float32``, ``float64`` or ``auto``: factors and updates in float32, whose
    rounding error is that of the format, dense sums in float64, whose error would grow with the
    condition of the prior. ``place`` is that of the order (:attr:`TrainOrder.place`): statistics of
    the base model belong to the same state in every round.
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
        "place": place,
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
    place : str
        Of the order that the reply answers.
    heights : Mapping[str, int]
        Output width of the modules that are not ``d_out`` wide; only updates have such.
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
    place: str = ""
    heights: Mapping[str, int] = field(default_factory=dict)


def read_payload(content: RecordDict, expected: Expected) -> EditPayload:
    """Unpack and check a client's contribution.

    Raises
    ------
    PayloadError
        If a record is missing, or schema, base model, state, editor, mode, place, names, shapes,
        dtypes or counts differ from what the exchange expects, a number is not finite, there is
        anything that was not asked for, or dense sums cannot be those of keys.
    """
    arrays = array_record(content, "payload")
    meta = read_json(config_record(content, "meta"), "reply")
    edits = _check_meta(meta, expected)
    _check_names(arrays, expected)
    tensors = read_matrices(arrays)
    statistics: dict[str, LayerStatistics] = {}
    updates: dict[str, LayerUpdate] = {}
    if expected.kind == STATISTICS:
        for group in expected.groups:
            count = _count(group, meta, edits)
            statistics[group] = _unpack_statistics(group, tensors, count, expected)
    else:
        updates = _unpack_updates(tensors, expected)
    return EditPayload(
        base=expected.base,
        state=expected.state,
        editor=expected.editor,
        mode=expected.mode,
        num_edits=edits,
        statistics=statistics,
        updates=updates,
    )


def _check_meta(meta: Mapping[str, Any], expected: Expected) -> int:
    """Return the number of edits of a description that fits the exchange."""
    if type(meta.get("schema")) is not int or meta["schema"] != SCHEMA:
        raise PayloadError(
            f"payload schema {shown(meta.get('schema'))}, this server speaks {SCHEMA}; "
            "install the same version of fleke-flwr on all nodes"
        )
    hints = {
        "base": "the client holds another base model (or another version of it)",
        "state": "the client worked on another state: an old message, or a damaged one",
        "editor": "the client ran another editor",
        "mode": "the client ran another mode",
        "place": "the client answered another order: an old message",
        "kind": "the client sent another kind of contribution",
        "encoding": "the client used another encoding",
    }
    for key, hint in hints.items():
        if meta.get(key) != getattr(expected, key):
            raise PayloadError(
                f"{key} is {shown(meta.get(key))}, expected {getattr(expected, key)!r}: {hint}"
            )
    groups = meta.get("groups")
    wanted = set(expected.groups) if expected.kind == STATISTICS else set()
    if not isinstance(groups, dict) or set(groups) != wanted:
        raise PayloadError(f"groups are {shown(groups)}, expected {sorted(wanted)}")
    return read_count(meta.get("edits"), "edits")


def _check_names(arrays: Mapping[str, object], expected: Expected) -> None:
    """Refuse what nobody asked for before a byte of it is read."""
    if expected.kind != STATISTICS:
        parts: tuple[str, ...] = ("dense", "left", "right")
    else:
        parts = ("gram", "cross") if expected.encoding == "dense" else ("keys", "residuals")
    known = {f"{group}/{part}" for group in expected.groups for part in parts}
    extra = set(arrays) - known
    if extra:
        raise PayloadError(f"{len(extra)} arrays too many, the first is {shown(min(extra))}")


def _count(group: str, meta: Mapping[str, Any], edits: int) -> int:
    """Return the number of requests behind a group; those that strengthen others are no edits."""
    about = meta["groups"][group]
    found = about.get("count") if isinstance(about, dict) else None
    count = read_count(found, f"count of group {group!r}")
    if count < edits:
        raise PayloadError(f"group {group!r} counts {count} requests for {edits} edits")
    return count


def _pack_statistics(group: str, statistics: LayerStatistics, encoding: str) -> dict[str, Tensor]:
    if encoding == "dense":
        gram, cross = statistics.sums()
        return {f"{group}/gram": gram, f"{group}/cross": cross}
    keys, residuals = statistics.factors()
    return {f"{group}/keys": keys, f"{group}/residuals": residuals}


def _unpack_statistics(
    group: str, tensors: Mapping[str, Tensor], count: int, expected: Expected
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
    if expected.encoding == "dense":
        _check_gram(group, first)
        return LayerStatistics(count, gram=first, cross=second)
    if rank > d_in:
        raise PayloadError(f"{group!r} keys have {rank} columns for {d_in} rows: not compressed")
    return LayerStatistics(count, keys=first, residuals=second)


def _check_gram(group: str, gram: Tensor) -> None:
    """Refuse ``S`` that is not symmetric or has a negative diagonal, row by row."""
    largest = float(gram.diagonal().max()) if len(gram) else 0.0
    if len(gram) and float(gram.diagonal().min()) < 0:
        raise PayloadError(f"{group!r} gram has a negative diagonal: it is of no keys")
    for row, column in zip(gram, gram.T, strict=True):
        # Of a sum of squares no entry is larger than the largest diagonal one.
        if not float((row - column).abs().max()) <= _ASYMMETRY * largest:
            raise PayloadError(f"{group!r} gram is not symmetric: it is of no keys")


def _unpack_updates(tensors: Mapping[str, Tensor], expected: Expected) -> dict[str, LayerUpdate]:
    try:
        updates = updates_of(tensors)
    except DataError as error:
        raise PayloadError(str(error)) from error
    if set(updates) != set(expected.groups):
        raise PayloadError(f"updates of {sorted(updates)}, expected {sorted(expected.groups)}")
    for module, update in updates.items():
        shape = (expected.heights.get(module, expected.d_out), expected.widths[module])
        if update.shape != shape:
            raise PayloadError(f"update of {module!r} has shape {update.shape}, expected {shape}")
        if update.right is not None and len(update.right) > expected.widths[module]:
            raise PayloadError(
                f"update of {module!r} has rank {len(update.right)} for width "
                f"{expected.widths[module]}: not compressed"
            )
    return {module: updates[module] for module in expected.groups}

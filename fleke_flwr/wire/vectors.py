"""Memory vectors on their way from one client to the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fleke_flwr.errors import PayloadError, RequestError
from fleke_flwr.types import EditRequest, MemoryVectors
from fleke_flwr.wire.tensors import (
    DTYPES,
    SCHEMA,
    array_record,
    checked,
    config_record,
    pack_tensors,
    read_count,
    read_json,
    read_matrices,
    shown,
    unpack_tensors,
)

VECTORS = "vectors"
_KEYS = "keys/"
# Characters of a text: no model reads as much in one prompt as this, and every receiver has to.
_LONGEST_TEXT = 8192
# Prompt with slot, subject, target: what the exchange of tokens shows to everybody.
Text = tuple[str, str, str]


@dataclass(frozen=True)
class SharedVectors:
    """What one client uploads in one slot.

    Parameters
    ----------
    vectors : MemoryVectors
        Of its edits, in the order of its records; without keys when texts are sent.
    first : int
        How many of its records come before them: with the row this numbers an edit, and says
        nothing about it.
    texts : tuple[Text, ...]
        One for each edit when tokens are exchanged, else empty.
    """

    vectors: MemoryVectors
    first: int
    texts: tuple[Text, ...] = ()


@dataclass(frozen=True)
class ExpectedVectors:
    """What a good upload looks like.

    Parameters
    ----------
    base, editor : str
        Must equal what the reply says.
    widths : Mapping[str, int]
        Input width by edited module; empty when texts are exchanged.
    d_out : int
        Width of the target vectors.
    with_texts : bool
        Whether texts are exchanged.
    """

    base: str
    editor: str
    widths: Mapping[str, int]
    d_out: int
    with_texts: bool


@dataclass(frozen=True)
class Received:
    """Other clients' edits, as the server hands them out.

    Parameters
    ----------
    vectors : MemoryVectors
        ``n`` edits.
    sender, place : Tensor
        Whose each is, and its number among that client's records, ``(n,)``.
    texts : tuple[Text, ...]
        One for each edit when tokens are exchanged, else empty.
    """

    vectors: MemoryVectors
    sender: Tensor
    place: Tensor
    texts: tuple[Text, ...] = ()

    def __len__(self) -> int:
        """Return the number of edits."""
        return len(self.vectors)

    def rows(self, mask: Tensor) -> Received:
        """Keep the edits where ``mask`` is true."""
        kept = [index for index, keep in enumerate(mask.tolist()) if keep]
        return Received(
            self.vectors.rows(mask),
            self.sender[mask],
            self.place[mask],
            tuple(self.texts[index] for index in kept) if self.texts else (),
        )

    def __add__(self, other: Received) -> Received:
        """Append further edits."""
        return Received(
            self.vectors + other.vectors,
            torch.cat([self.sender, other.sender]),
            torch.cat([self.place, other.place]),
            self.texts + other.texts,
        )


def pack_vectors(vectors: MemoryVectors) -> dict[str, Tensor]:
    """Name the tensors of memory vectors."""
    keys = {f"{_KEYS}{module}": matrix for module, matrix in vectors.keys.items()}
    return {"targets": vectors.targets, "hidden": vectors.hidden, **keys}


def unpack_vectors(tensors: Mapping[str, Tensor]) -> MemoryVectors:
    """Rebuild :func:`pack_vectors`; other names are ignored.

    Raises
    ------
    PayloadError
        If targets or hidden states are missing, or the rows do not match.
    """
    if "targets" not in tensors or "hidden" not in tensors:
        raise PayloadError(f"memory vectors need targets and hidden, found {sorted(tensors)}")
    keys = {
        name.removeprefix(_KEYS): tensor
        for name, tensor in tensors.items()
        if name.startswith(_KEYS)
    }
    return MemoryVectors(tensors["targets"], tensors["hidden"], keys)


def write_vectors(shared: SharedVectors, base: str, editor: str, dtype: str) -> RecordDict:
    """Pack an upload; the caller adds the ``metrics`` record.

    ``dtype`` is ``float32``, ``float64`` or ``auto``, which is float32.
    """
    chosen = DTYPES.get(dtype, torch.float32)
    meta = {
        "schema": SCHEMA,
        "kind": VECTORS,
        "base": base,
        "editor": editor,
        "edits": len(shared.vectors),
        "first": shared.first,
    }
    tensors = {name: t.to(chosen) for name, t in pack_vectors(shared.vectors).items()}
    content = RecordDict(
        {"payload": pack_tensors(tensors), "meta": ConfigRecord({"json": json.dumps(meta)})}
    )
    if shared.texts:
        content["texts"] = _write_texts(shared.texts)
    return content


def read_vectors(content: RecordDict, expected: ExpectedVectors) -> SharedVectors:
    """Unpack and check an upload.

    Raises
    ------
    PayloadError
        If a record is missing, or schema, base model, editor, names, shapes or dtypes differ from
        what the exchange expects, a number is not finite, or there is text where none belongs.
    """
    arrays = array_record(content, "payload")
    meta = read_json(config_record(content, "meta"), "reply")
    wanted = {
        "schema": SCHEMA,
        "kind": VECTORS,
        "base": expected.base,
        "editor": expected.editor,
    }
    for key, value in wanted.items():
        if type(meta.get(key)) is not type(value) or meta[key] != value:
            raise PayloadError(f"{key} is {shown(meta.get(key))}, expected {value!r}")
    known = {"targets", "hidden", *(f"{_KEYS}{module}" for module in expected.widths)}
    if set(arrays) - known:
        raise PayloadError(f"an array {shown(min(set(arrays) - known))} was not asked for")
    vectors = unpack_vectors(read_matrices(arrays))
    _check_shapes(vectors, expected)
    texts = _read_texts(content)
    if len(texts) != (len(vectors) if expected.with_texts else 0):
        raise PayloadError(
            f"{len(texts)} texts come with {len(vectors)} edits; "
            + ("one for each is needed" if expected.with_texts else "this exchange carries none")
        )
    first, edits = (read_count(meta.get(key), key) for key in ("first", "edits"))
    if edits != len(vectors):
        raise PayloadError(f"edits is {edits}, and {len(vectors)} came")
    return SharedVectors(vectors, first, texts)


def write_received(received: Received, dtype: str) -> dict[str, ArrayRecord | ConfigRecord]:
    """Pack what the server hands out, to be added to the content of an order."""
    chosen = DTYPES.get(dtype, torch.float32)
    tensors = {name: t.to(chosen) for name, t in pack_vectors(received.vectors).items()}
    whose = {"sender": received.sender, "place": received.place}
    records: dict[str, ArrayRecord | ConfigRecord] = {
        "received": pack_tensors({**tensors, **whose})
    }
    if received.texts:
        records["texts"] = _write_texts(received.texts)
    return records


def read_received(content: RecordDict) -> Received:
    """Unpack :func:`write_received`.

    Raises
    ------
    PayloadError
        If something is missing, malformed, or not of one row per edit.
    """
    tensors = unpack_tensors(array_record(content, "received"))
    whose = [tensors.pop(name, None) for name in ("sender", "place")]
    vectors = unpack_vectors({name: checked(name, tensor) for name, tensor in tensors.items()})
    sender, place = (_numbers(found, len(vectors)) for found in whose)
    texts = _read_texts(content)
    if texts and len(texts) != len(vectors):
        raise PayloadError(f"{len(texts)} texts come with {len(vectors)} edits")
    return Received(vectors, sender, place, texts)


def _numbers(found: Tensor | None, count: int) -> Tensor:
    if found is None or found.dtype != torch.int64 or found.shape != (count,):
        raise PayloadError(f"sender and place need {count} whole numbers each")
    if bool((found < 0).any()):
        raise PayloadError("sender and place are counted from 0")
    return found


def _check_shapes(vectors: MemoryVectors, expected: ExpectedVectors) -> None:
    widths = {module: int(matrix.shape[1]) for module, matrix in vectors.keys.items()}
    if widths != dict(expected.widths):
        raise PayloadError(f"keys of widths {widths}, expected {dict(expected.widths)}")
    if vectors.targets.shape[1] != expected.d_out:
        raise PayloadError(
            f"target vectors are {vectors.targets.shape[1]} wide, expected {expected.d_out}"
        )


def _checked_text(prompt: object, subject: object, target: object) -> Text:
    """Refuse here what every receiver would stumble over."""
    for text in (prompt, subject, target):
        if not isinstance(text, str) or len(text) > _LONGEST_TEXT or not _is_encodable(text):
            raise PayloadError(f"{shown(text)} is no text that could be edited with")
    found = str(prompt), str(subject), str(target)
    try:
        EditRequest("received", *found)
    except RequestError as error:
        raise PayloadError(shown(str(error))) from error
    return found


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _write_texts(texts: Sequence[Text]) -> ConfigRecord:
    prompts, subjects, targets = (list(column) for column in zip(*texts, strict=True))
    return ConfigRecord({"prompts": prompts, "subjects": subjects, "targets": targets})


def _read_texts(content: RecordDict) -> tuple[Text, ...]:
    record: Mapping[str, Any] | None = content.config_records.get("texts")
    if record is None:
        return ()
    columns = [record.get(name) for name in ("prompts", "subjects", "targets")]
    if not all(isinstance(column, list) for column in columns):
        raise PayloadError("texts need the lists prompts, subjects and targets")
    lists = [column for column in columns if isinstance(column, list)]
    if len({len(column) for column in lists}) != 1:
        raise PayloadError("the lists prompts, subjects and targets are not equally long")
    return tuple(_checked_text(*row) for row in zip(*lists, strict=True))

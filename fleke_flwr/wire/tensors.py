"""Tensors and JSON descriptions inside Flower records.

What arrives is read by the numbers of bytes that came, never by what a header claims: a damaged or
lying array is refused before anything is allocated for it.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fleke_flwr.errors import PayloadError

SCHEMA = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}

_STYPE = "numpy.ndarray"
_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "int64": 8}
# NumPy's format: header lengths that fit one array of numbers, with room for alignment.
_LONGEST_HEADER = 1024
# Names in what is received end up in logs, in files and in a page: no control, no markup.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/+-]{0,127}")
_Record = TypeVar("_Record", ArrayRecord, ConfigRecord)


def num_bytes(arrays: ArrayRecord) -> int:
    """Size of the numbers in an ArrayRecord, headers not counted; never more than has arrived."""
    return sum(
        min(math.prod(array.shape) * _ITEM_BYTES.get(array.dtype, 8), len(array.data))
        for array in arrays.values()
        if all(side >= 0 for side in array.shape)
    )


def pack_tensors(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Turn named tensors into arrays, kept exactly (bfloat16 does not travel)."""
    return ArrayRecord(
        {name: Array(t.detach().cpu().contiguous().numpy()) for name, t in tensors.items()}
    )


def unpack_tensors(arrays: ArrayRecord) -> dict[str, Tensor]:
    """Rebuild :func:`pack_tensors`.

    Raises
    ------
    PayloadError
        If an array is damaged, or is not what its description says.
    """
    return {name: _tensor(name, array) for name, array in arrays.items()}


def _tensor(name: str, array: Array) -> Tensor:
    """Read one array in NumPy's format without trusting any of its lengths.

    NumPy's own reader allocates what the header claims before it looks at the bytes, and opens
    archives and pickles where the first bytes say so.
    """
    what = f"array {shown(name)}"
    if array.stype != _STYPE:
        raise PayloadError(f"{what} is serialised as {shown(array.stype)}; {_STYPE!r} is needed")
    stream = BytesIO(array.data[: _LONGEST_HEADER + 16])
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("format version 1.0 is needed")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(
            stream, max_header_size=_LONGEST_HEADER
        )
    # NumPy's parser of hostile headers raises whatever Python's does.
    except Exception as error:
        raise PayloadError(f"{what} is damaged: {shown(str(error))}") from error
    if dtype.kind not in "fi" or dtype.str not in ("<f2", "<f4", "<f8", "<i8"):
        raise PayloadError(f"{what} is of type {shown(str(dtype))}; float32 or float64 is needed")
    if (str(dtype), tuple(shape)) != (array.dtype, tuple(array.shape)):
        raise PayloadError(
            f"{what} holds {dtype} {shown(shape)} and is declared "
            f"{shown(array.dtype)} {shown(array.shape)}"
        )
    start, count = stream.tell(), math.prod(shape)
    sound = all(side >= 0 for side in shape) and math.prod(max(side, 1) for side in shape) < 2**48
    if not sound or len(array.data) - start != count * dtype.itemsize:
        raise PayloadError(
            f"{what} has {len(array.data) - start} bytes of numbers for shape {shown(shape)}"
        )
    numbers = np.frombuffer(array.data, dtype, count, start)
    return torch.from_numpy(numbers.reshape(shape, order="F" if by_column else "C").copy("C"))


def matrix(name: str, tensor: Tensor) -> Tensor:
    """Return a received matrix of finite numbers as it is.

    Raises
    ------
    PayloadError
        If it is no matrix, of another type than float32 or float64, or not finite.
    """
    if tensor.ndim != 2:
        raise PayloadError(f"{shown(name)} has shape {tuple(tensor.shape)}; a matrix is needed")
    if tensor.dtype not in DTYPES.values():
        raise PayloadError(f"{shown(name)} is of type {tensor.dtype}; float32 or float64 is needed")
    if not torch.isfinite(tensor).all():
        raise PayloadError(f"{shown(name)} holds NaN or infinity")
    return tensor


def checked(name: str, tensor: Tensor) -> Tensor:
    """Return a received matrix in float64.

    Raises
    ------
    PayloadError
        As :func:`matrix`.
    """
    return matrix(name, tensor).to(torch.float64)


def read_matrices(arrays: ArrayRecord) -> dict[str, Tensor]:
    """Return received matrices in float64, one at a time out of their bytes.

    Raises
    ------
    PayloadError
        As :func:`unpack_tensors` and :func:`checked`.
    """
    return {name: checked(name, _tensor(name, array)) for name, array in arrays.items()}


def array_record(content: RecordDict, name: str) -> ArrayRecord:
    """Return a record of arrays.

    Raises
    ------
    PayloadError
        If there is none of this name.
    """
    return _record(content.array_records, name)


def config_record(content: RecordDict, name: str) -> ConfigRecord:
    """Return a record of settings.

    Raises
    ------
    PayloadError
        If there is none of this name.
    """
    return _record(content.config_records, name)


def _record(records: Mapping[str, _Record], name: str) -> _Record:
    record = records.get(name)
    if record is None:
        raise PayloadError(f"the message has no record {name!r}")
    return record


def read_json(record: ConfigRecord, what: str) -> dict[str, Any]:
    """Return the JSON object that describes a message.

    Raises
    ------
    PayloadError
        If there is none, or a key stands in it twice.
    """
    text = record.get("json")
    if not isinstance(text, str):
        raise PayloadError(f"the {what} has no JSON description")
    try:
        content = json.loads(text, object_pairs_hook=_single)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the {what}'s description is not JSON: {shown(str(error))}") from error
    if not isinstance(content, dict):
        raise PayloadError(f"the {what}'s description is not a JSON object")
    return content


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def read_count(value: object, what: str, most: int = 2**31) -> int:
    """Return a count out of a description.

    Raises
    ------
    PayloadError
        If it is not a whole number from 0 to ``most``; ``True`` and ``1.0`` are none.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise PayloadError(f"{what} is {shown(value)}; a count is needed")
    return value


def read_name(name: str, what: str) -> str:
    """Return a received name that can be shown anywhere.

    Raises
    ------
    PayloadError
        If it is not short, or not of letters, digits, spaces and ``._/+-``.
    """
    if not _NAME.fullmatch(name):
        raise PayloadError(f"{what} is named {shown(name)}; a short plain name is needed")
    return name


class _Short(reprlib.Repr):
    """Shows a value in one short line, whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 120
        self.maxlong, self.maxdict, self.maxlist, self.maxlevel = 30, 4, 4, 2


def shown(value: object) -> str:
    """Return a received value as an error message may show it: short, and without control."""
    try:
        return _Short().repr(value)
    # Python refuses to write out whole numbers of thousands of digits.
    except ValueError:
        return f"a {type(value).__name__}"

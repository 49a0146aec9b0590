"""Tensors and JSON descriptions inside Flower records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from torch import Tensor

from fleke_flwr.errors import PayloadError

SCHEMA = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def num_bytes(arrays: ArrayRecord) -> int:
    """Size of the numbers in an ArrayRecord, headers not counted."""
    return sum(math.prod(array.shape) * _itemsize(array.dtype) for array in arrays.values())


def _itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4, "float16": 2}.get(dtype, 8)


def pack_tensors(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Turn named tensors into arrays, kept exactly (bfloat16 does not travel)."""
    return ArrayRecord(
        {name: Array(t.detach().cpu().contiguous().numpy()) for name, t in tensors.items()}
    )


def unpack_tensors(arrays: ArrayRecord) -> dict[str, Tensor]:
    """Rebuild :func:`pack_tensors`."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}


def checked(name: str, tensor: Tensor) -> Tensor:
    """Return a received tensor in float64.

    Raises
    ------
    PayloadError
        If it is of another type than float32 or float64, or not finite.
    """
    if tensor.dtype not in DTYPES.values():
        raise PayloadError(f"{name!r} is of type {tensor.dtype}; float32 or float64 is needed")
    if not torch.isfinite(tensor).all():
        raise PayloadError(f"{name!r} holds NaN or infinity")
    return tensor.to(torch.float64)


def read_json(record: ConfigRecord, what: str) -> dict[str, Any]:
    """Return the JSON object that describes a message.

    Raises
    ------
    PayloadError
        If there is none.
    """
    text = record.get("json")
    if not isinstance(text, str):
        raise PayloadError(f"the {what} has no JSON description")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise PayloadError(f"the {what}'s description is not JSON: {error.msg}") from error
    if not isinstance(content, dict):
        raise PayloadError(f"the {what}'s description is not a JSON object")
    return content

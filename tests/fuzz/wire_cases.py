"""What a faulty or hostile node can put into a Flower message, as hypothesis strategies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# FLEKE_FUZZ=full runs six times as many cases, more than 10,000 in all.
FULL = os.environ.get("FLEKE_FUZZ") == "full"
FACTOR = 6 if FULL else 1

DTYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "|u1", "|b1", "<c16", ">f8", "<U2", "<M8[s]"]
SPECIAL = [0.0, -0.0, 1.0, -1.5, 5e-324, 1e-310, 1e300, -1e308, np.inf, -np.inf, np.nan]
SHAPES: list[tuple[int, ...]] = [
    (), (0,), (1,), (10,), (10, 2), (4, 2), (10, 10), (4, 10), (2, 6), (4, 6), (4, 1), (1, 6),
    (10, 0), (4, 0), (10, 11), (3, 10, 2), (1, 1, 1, 1),
]  # fmt: skip
LIES = [
    (10**9, 10**9), (2**62,), (2**63, 2), (10**30,), (-1, 4), (0, 10**30), (0, 2**40, 2**40),
    (10, 2, 10**12),
]  # fmt: skip
EVIL_HEADERS = [
    "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1e3,), }",
    "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 2), 'more': 1}",
    "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f8', 'fortran_order': 0, 'shape': [2]}",
    "{'descr': 'f8' * 9, 'fortran_order': False, 'shape': (2,), }",
    "(" * 400,
    "-" * 900 + "1",
    "__import__('os').getcwd()",
    "",
]
TEXTS = [
    "", "{", "[1]", "null", "1", "nan", '{"schema": 1e999}', '{"schema": NaN}', "[" * 100_000,
    '{"a":' * 5000, "1" * 5000, '{"edits": ' + "9" * 5000 + "}", '{"schema": 1, "schema": 1}',
    '{"\\ud800": "\\ud800"}', "\x00", "{}" * 3, "漢" * 50,
]  # fmt: skip


def cases(count: int) -> Any:
    """Return hypothesis settings for ``count`` cases; the full run draws others every time."""
    return settings(
        max_examples=count * FACTOR,
        deadline=None,
        derandomize=not FULL,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


numbers = st.one_of(
    st.sampled_from([0, -1, True, 1.0, 1, 2, 3, 2**31, 2**63, 10**30, 1e308, float("nan")]),
    st.integers(),
    st.floats(),
)
names = st.one_of(
    st.sampled_from(["", "a", "keys", "count", "漢", "\ud800", "<script>", "a/b", "x" * 5000]),
    st.text(max_size=8),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, names),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def ndarrays(draw: st.DrawFn) -> np.ndarray:
    """Return small arrays of any type, many of them with the values of special meaning."""
    shape = draw(st.sampled_from(SHAPES))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = np.resize(np.array(draw(st.lists(st.sampled_from(SPECIAL), min_size=1))), shape)
    with np.errstate(all="ignore"):
        if dtype.kind == "U":
            return values.astype(str).astype(dtype)
        if dtype.kind == "M":
            return np.zeros(shape, dtype)
        array = (np.nan_to_num(values) if dtype.kind in "iub" else values).astype(dtype)
    return np.asfortranarray(array) if array.ndim and draw(st.booleans()) else np.asarray(array)


def saved(array: np.ndarray) -> bytes:
    """Return the bytes in which an array travels."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def with_header(text: str, data: bytes = b"\x00" * 16) -> bytes:
    """Return an array whose header is any text."""
    header = text.encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@st.composite
def damaged_bytes(draw: st.DrawFn) -> bytes:
    """Return bytes that once were an array, or never were one."""
    data = saved(draw(ndarrays()))
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return data[: draw(st.integers(0, len(data)))]
    if kind == 1:
        return data + draw(st.binary(min_size=1, max_size=20))
    if kind == 2:
        place = draw(st.integers(0, len(data) - 1))
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    if kind == 3:
        return draw(st.sampled_from([b"PK\x03\x04", b"\x80\x04", b"", b"\x93NUMPY"])) + data[6:]
    if kind == 4:
        return with_header(draw(st.sampled_from(EVIL_HEADERS)), draw(st.binary(max_size=40)))
    if kind == 5:
        shape = draw(st.sampled_from(LIES))
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
        return with_header(text, draw(st.binary(max_size=40)))
    return draw(st.binary(max_size=80))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Return arrays: sound ones, damaged ones, and ones that are declared as something else."""
    if draw(st.integers(0, 2)) == 0:
        return Array(draw(ndarrays()))
    array = Array(draw(ndarrays()))
    dtype, shape, stype, data = array.dtype, array.shape, array.stype, array.data
    lie = draw(st.integers(0, 4))
    if lie == 0:
        dtype = draw(st.sampled_from(["float32", "float64", "object", "", "float16", "🙂"]))
    if lie == 1:
        shape = draw(st.sampled_from([*SHAPES, *LIES]))
    if lie == 2:
        stype = draw(st.sampled_from(["", "pickle", "torch.Tensor", "numpy.ndarray "]))
    if lie >= 3:
        data = draw(damaged_bytes())
    return Array(dtype, shape, stype, data)


@st.composite
def array_records(draw: st.DrawFn, honest: Mapping[str, Array]) -> ArrayRecord:
    """Return honest arrays of which some are replaced, missing or too many."""
    found = dict(honest)
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.integers(0, 3))
        if kind == 0 and found:
            del found[draw(st.sampled_from(sorted(found)))]
        elif kind == 1:
            found[draw(names)] = draw(arrays())
        elif honest:
            found[draw(st.sampled_from(sorted(honest)))] = draw(arrays())
    return ArrayRecord(found)


@st.composite
def descriptions(draw: st.DrawFn, honest: Mapping[str, Any]) -> str:
    """Return an honest description of which some fields, at any depth, are something else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.sampled_from(TEXTS), st.text(max_size=30)))
    found = json.loads(json.dumps(honest))
    for _ in range(draw(st.integers(0, 2))):
        place: Any = found
        while True:
            if isinstance(place, dict) and place:
                key: Any = draw(st.sampled_from(sorted(place)))
            elif isinstance(place, list) and place:
                key = draw(st.integers(0, len(place) - 1))
            else:
                break
            kind = draw(st.integers(0, 4))
            if kind == 0:
                del place[key]
            elif kind == 1 and isinstance(place, dict):
                place[draw(names)] = draw(json_values)
            elif kind == 2 and isinstance(place[key], dict | list):
                place = place[key]
                continue
            else:
                place[key] = draw(json_values)
            break
    return json.dumps(found)


config_values = st.one_of(
    st.text(max_size=5),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(names, max_size=3),
)


@st.composite
def messages(draw: st.DrawFn, honest: Callable[[], RecordDict]) -> RecordDict:
    """Return an honest message of which one or two records are not."""
    content = honest()
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(content))) if content else "payload"
        kind = draw(st.integers(0, 9))
        if kind == 0 and content:
            del content[name]
        elif kind == 1:
            content[name] = ConfigRecord({"json": draw(config_values)})
        elif kind == 2:
            content[name] = draw(array_records({}))
        elif name in content.array_records:
            content[name] = draw(array_records(content.array_records[name]))
        elif name in content.config_records:
            content[name] = _config(draw, content.config_records[name])
    return content


def _config(draw: st.DrawFn, record: ConfigRecord) -> ConfigRecord:
    text = record.get("json")
    if isinstance(text, str):
        try:
            return ConfigRecord({"json": draw(descriptions(json.loads(text)))})
        except (ValueError, RecursionError):
            return ConfigRecord({"json": text})
    changed = dict(record)
    changed[draw(st.sampled_from(sorted(changed)))] = draw(config_values)
    return ConfigRecord(changed)

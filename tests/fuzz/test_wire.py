"""Whatever a node sends is read as what was asked for, or refused: nothing else ever happens."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr import wire
from fleke_flwr.errors import PayloadError
from fleke_flwr.state import EditState
from fleke_flwr.types import EditPayload, LayerStatistics, LayerUpdate, MemoryVectors
from tests.fuzz.wire_cases import (
    EVIL_HEADERS,
    LIES,
    arrays,
    cases,
    json_values,
    messages,
    names,
    numbers,
    saved,
    with_header,
)
from tests.test_wire import EXPECTED, SPEC, payload, tensor

_Read = TypeVar("_Read")
UPDATES = replace(EXPECTED, kind=wire.UPDATES, groups=("a", "b"))
DENSE = replace(EXPECTED, encoding="dense")
VECTORS = wire.ExpectedVectors("base", "memit", {"a": 6, "b": 4}, 4, with_texts=False)
TEXTS = (("{} is a", "Ann", "baker"), ("{} lives in", "Bo", "Arlen"))


def attempt(reader: Callable[[], _Read]) -> _Read | None:
    """Return what was read, or nothing where it was refused in words that can be shown."""
    try:
        return reader()
    except PayloadError as error:
        text = str(error)
        assert 0 < len(text) < 1000
        assert text.isprintable()
        return None


def sound(matrix: torch.Tensor, *shape: int) -> bool:
    return matrix.shape == shape and matrix.dtype == torch.float64 and bool(matrix.isfinite().all())


def updates_payload() -> EditPayload:
    updates = {"a": LayerUpdate(tensor(4, 1), tensor(1, 6)), "b": LayerUpdate(tensor(4, 4))}
    return EditPayload("base", "state", "memit", "joint", 1, updates=updates)


def memory_vectors(with_keys: bool = True) -> MemoryVectors:
    keys = {"a": tensor(2, 6), "b": tensor(2, 4)} if with_keys else {}
    return MemoryVectors(tensor(2, 4), tensor(2, 4), keys)


def order_message() -> RecordDict:
    order = wire.TrainOrder(
        SPEC, "v", 1, 0, 0, 1, {"clients": 2}, "statistics", False, "factors", "auto", "s"
    )
    return wire.write_order(order, EditState("base", 0, updates_payload().updates))


def received_message() -> RecordDict:
    whose = torch.tensor([0, 1]), torch.tensor([3, 4])
    received = wire.Received(memory_vectors(False), *whose, TEXTS)
    return RecordDict(dict(wire.write_received(received, "float64")))


@cases(250)
@given(messages(lambda: wire.write_payload(payload(), "factors", "float64")))
def test_factors(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_payload(content, EXPECTED))
    if found is not None:
        keys, residuals = found.statistics["a+b"].factors()
        assert sound(keys, 10, keys.shape[1])
        assert sound(residuals, 4, keys.shape[1])
        assert keys.shape[1] <= 10
        assert 0 <= found.num_edits <= found.statistics["a+b"].count <= 2**31


@cases(120)
@given(messages(lambda: wire.write_payload(payload(), "dense", "float64")))
def test_dense_sums(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_payload(content, DENSE))
    if found is not None:
        gram, cross = found.statistics["a+b"].sums()
        assert sound(gram, 10, 10)
        assert sound(cross, 4, 10)
        torch.testing.assert_close(gram, gram.T, atol=1e-5 * float(gram.abs().max()), rtol=0)


@cases(120)
@given(messages(lambda: wire.write_payload(updates_payload(), "factors", "float32")))
def test_updates(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_payload(content, UPDATES))
    if found is not None:
        assert list(found.updates) == ["a", "b"]
        assert found.updates["a"].shape == (4, 6)
        assert found.updates["b"].shape == (4, 4)


@cases(120)
@given(
    messages(
        lambda: wire.write_vectors(
            wire.SharedVectors(memory_vectors(), 3), "base", "memit", "float64"
        )
    )
)
def test_vectors(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_vectors(content, VECTORS))
    if found is not None:
        count = len(found.vectors)
        assert sound(found.vectors.targets, count, 4)
        assert sound(found.vectors.keys["a"], count, 6)
        assert found.texts == ()
        assert 0 <= found.first <= 2**31


@cases(120)
@given(
    messages(
        lambda: wire.write_vectors(
            wire.SharedVectors(memory_vectors(False), 3, TEXTS), "base", "memit", "auto"
        )
    )
)
def test_vectors_with_texts(content: RecordDict) -> None:
    expected = replace(VECTORS, widths={}, with_texts=True)
    found = attempt(lambda: wire.read_vectors(content, expected))
    if found is not None:
        assert len(found.texts) == len(found.vectors)
        assert all(prompt.count("{}") == 1 for prompt, _, _ in found.texts)


@cases(120)
@given(messages(received_message))
def test_received(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_received(content))
    if found is not None:
        assert sound(found.vectors.targets, len(found), found.vectors.targets.shape[1])
        assert found.sender.shape == found.place.shape == (len(found),)
        assert found.sender.dtype == torch.int64


@cases(150)
@given(messages(order_message))
def test_orders(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_order(content))
    if found is not None:
        order, state = found
        assert type(order.round) is int
        assert order.round >= 0
        assert all(type(layer) is int for layer in order.spec.layers)
        assert math.isfinite(order.spec.ridge_weight)
        for update in state.updates.values():
            assert update.dense().isfinite().all() or update.right is not None


@cases(120)
@given(st.dictionaries(st.sampled_from(["a/left", "a/right", "a/dense", "/", "b/x"]), arrays()))
def test_states(found: Mapping[str, Array]) -> None:
    read = attempt(lambda: wire.read_updates(ArrayRecord(dict(found))))
    if read is not None:
        assert all(len(update.shape) == 2 for update in read.values())


metric_values = st.one_of(
    st.integers(),
    st.floats(),
    st.lists(st.integers(), max_size=4),
    st.lists(st.floats(), min_size=2, max_size=4),
    st.tuples(st.floats(-2, 2), st.floats(0, 4), st.sampled_from([0.0, 1.0, 2.0, 4.0])).map(list),
)


@cases(250)
@given(
    st.dictionaries(
        st.one_of(st.sampled_from(["measurements-own", "measurements-all", "other"]), names),
        st.dictionaries(st.one_of(st.just("efficacy"), names), metric_values, max_size=2),
        max_size=3,
    )
)
def test_measurements(found: Mapping[str, Mapping[str, Any]]) -> None:
    content = RecordDict({name: MetricRecord(dict(record)) for name, record in found.items()})
    read = attempt(lambda: wire.read_groups(content))
    for sums in (read or {}).values():
        for total, squares, count in sums.values():
            assert type(count) is int
            assert 0 <= count <= 2**31
            assert math.isfinite(total)
            assert total**2 <= count * squares * (1 + 1e-5)


@cases(120)
@given(messages(lambda: RecordDict({"conflict": wire.write_tags(["q1", "q2"])})))
def test_tags(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_tags(content))
    assert all(isinstance(tag, str) and tag.isprintable() for tag in found or [])


CLAIMS = [wire.Claim(1, 0, "q:a"), wire.Claim(2, 3, "p:b")]


@cases(120)
@given(messages(lambda: RecordDict({"conflict": wire.write_claims(CLAIMS)})))
def test_claims(content: RecordDict) -> None:
    for claim in attempt(lambda: wire.read_claims(content)) or []:
        assert type(claim.round) is int
        assert claim.round >= 1
        assert claim.place >= 0
        assert claim.tag.count(":") == 1


@cases(120)
@given(
    messages(lambda: RecordDict({"conflict": wire.write_verdict(wire.Verdict(tuple(CLAIMS), ()))}))
)
def test_verdicts(content: RecordDict) -> None:
    found = attempt(lambda: wire.read_verdict(content))
    if found is not None:
        assert all(claim.round >= 1 for claim in (*found.withdraw, *found.strengthen))


@cases(250)
@given(arrays())
def test_single_arrays(array: Array) -> None:
    found = attempt(lambda: wire.unpack_tensors(ArrayRecord({"x": array})))
    if found is not None:
        assert str(found["x"].dtype) == f"torch.{array.dtype}"
        assert tuple(found["x"].shape) == tuple(array.shape)
    assert 0 <= wire.num_bytes(ArrayRecord({"x": array})) <= len(array.data)


@cases(60)
@given(json_values, names)
def test_any_description(value: Any, name: str) -> None:
    for text in (json.dumps(value), json.dumps({name: value}), name):
        content = RecordDict({"meta": ConfigRecord({"json": text}), "payload": ArrayRecord()})
        with pytest.raises(PayloadError):
            wire.read_payload(content, EXPECTED)


@cases(60)
@given(st.lists(numbers, min_size=3, max_size=3))
def test_impossible_sums(values: list[Any]) -> None:
    same = [float(value) for value in values]
    attempt(lambda: wire.read_sums(MetricRecord({"efficacy": same})))


@pytest.mark.parametrize("header", EVIL_HEADERS)
def test_hostile_headers_are_refused(header: str) -> None:
    array = Array("float64", (2,), "numpy.ndarray", with_header(header))
    with pytest.raises(PayloadError):
        wire.unpack_tensors(ArrayRecord({"x": array}))


@pytest.mark.parametrize("shape", LIES)
def test_a_lying_shape_takes_no_memory(shape: tuple[int, ...]) -> None:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    array = Array("float64", shape, "numpy.ndarray", with_header(text, bytes(64)))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError):
            wire.unpack_tensors(ArrayRecord({"x": array}))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_reading_takes_memory_in_proportion_to_what_came() -> None:
    values = np.ones((1000, 1000), dtype=np.float32)
    record = ArrayRecord({"x": Array(values)})
    tracemalloc.start()
    try:
        wire.unpack_tensors(record)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * values.nbytes
    finally:
        tracemalloc.stop()


def test_every_byte_of_a_header_counts() -> None:
    sent = wire.write_payload(payload(), "factors", "float64")
    honest = wire.read_payload(sent, EXPECTED).statistics["a+b"].factors()[0]
    arrays_ = sent.array_records["payload"]
    array = arrays_["a+b/keys"]
    start = len(array.data) - honest.numel() * 8
    for place in range(start):
        for flip in (1, 32, 255):
            data = bytearray(array.data)
            data[place] ^= flip
            changed = Array(array.dtype, array.shape, array.stype, bytes(data))
            content = RecordDict(
                {
                    "payload": ArrayRecord({**arrays_, "a+b/keys": changed}),
                    "meta": sent.config_records["meta"],
                }
            )
            found = attempt(lambda content=content: wire.read_payload(content, EXPECTED))
            assert found is None or torch.equal(found.statistics["a+b"].factors()[0], honest)


WRONG = [None, True, False, -1, 0.5, 2.0, 2**64, "2", "", [], {}, [2], {"count": 2}, "base "]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_every_field_of_a_description_counts(value: object) -> None:
    sent = wire.write_payload(payload(), "factors", "float64")
    meta = json.loads(str(sent.config_records["meta"]["json"]))
    for name in (name for name in meta if meta[name] != value):
        changed = {**meta, name: value}
        sent["meta"] = ConfigRecord({"json": json.dumps(changed)})
        with pytest.raises(PayloadError):
            wire.read_payload(sent, EXPECTED)
    for about in ({"a+b": value}, {"a+b": {"count": value}}, {"a+b": {}}, {"c": {"count": 2}}):
        if about == {"a+b": {"count": 2}}:
            continue
        sent["meta"] = ConfigRecord({"json": json.dumps({**meta, "groups": about})})
        with pytest.raises(PayloadError):
            wire.read_payload(sent, EXPECTED)


def test_an_array_too_many_is_refused_before_it_is_read() -> None:
    sent = wire.write_payload(payload(), "factors", "float64")
    lie = Array("float64", (10**9, 10**9), "numpy.ndarray", b"")
    sent["payload"] = ArrayRecord({**sent.array_records["payload"], "a+b/gram": lie})
    with pytest.raises(PayloadError, match="too many"):
        wire.read_payload(sent, EXPECTED)


def test_dense_sums_of_no_keys_are_refused() -> None:
    statistics = LayerStatistics(2, gram=torch.eye(10).double(), cross=tensor(4, 10))
    for change in (lambda gram: gram[0].fill_(3.0), lambda gram: gram[0, 0].fill_(-1.0)):
        gram = torch.eye(10).double()
        change(gram)
        spoilt = replace(statistics, gram=gram)
        sent = replace(payload(), statistics={"a+b": spoilt})
        with pytest.raises(PayloadError, match="of no keys"):
            wire.read_payload(wire.write_payload(sent, "dense", "float64"), DENSE)


def test_arrays_by_column_are_read_by_row() -> None:
    values = np.arange(6.0).reshape(2, 3)
    by_column = Array("float64", (2, 3), "numpy.ndarray", saved(np.asfortranarray(values)))
    found = wire.unpack_tensors(ArrayRecord({"x": by_column}))["x"]
    assert torch.equal(found, torch.from_numpy(values))


@cases(120)
@given(st.dictionaries(st.one_of(st.just("seconds-targets"), names), metric_values, max_size=3))
def test_costs(found: Mapping[str, Any]) -> None:
    content = RecordDict({"metrics": MetricRecord(dict(found))})
    read = attempt(lambda: wire.read_costs(content))
    assert all(0 <= value <= 2**53 for value in (read or {}).values())
    assert read is None or read == found

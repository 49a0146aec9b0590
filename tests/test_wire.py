"""Round trips and refusals of what travels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fleke_flwr import wire
from fleke_flwr.errors import PayloadError
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import EditState
from fleke_flwr.types import EditPayload, LayerStatistics, LayerUpdate

SPEC = EditSpec("memit", "joint", (0, 1), 100.0, "even", 1.0, 25, 2.0, 0.5, 0.06, 0.05, ("{}",))


def tensor(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def payload(rank: int = 2) -> EditPayload:
    statistics = LayerStatistics(2, keys=tensor(10, rank), residuals=tensor(4, rank))
    return EditPayload("base", "state", "memit", "joint", 2, statistics={"a+b": statistics})


EXPECTED = wire.Expected(
    base="base",
    state="state",
    editor="memit",
    mode="joint",
    kind=wire.STATISTICS,
    encoding="factors",
    groups=("a+b",),
    widths={"a": 6, "b": 4},
    d_out=4,
)


def test_factors_travel_exactly_in_float64() -> None:
    received = wire.read_payload(wire.write_payload(payload(), "factors", "float64"), EXPECTED)
    sent = payload().statistics["a+b"]
    assert received.num_edits == 2
    for mine, theirs in zip(sent.factors(), received.statistics["a+b"].factors(), strict=True):
        assert torch.equal(mine, theirs)


def test_factors_travel_in_float32_by_default_and_sums_in_float64() -> None:
    factors = wire.write_payload(payload(), "factors", "auto")["payload"]
    sums = wire.write_payload(payload(), "dense", "auto")["payload"]
    assert {array.dtype for array in factors.values()} == {"float32"}
    assert {array.dtype for array in sums.values()} == {"float64"}
    assert wire.num_bytes(factors) == 4 * 2 * (10 + 4)


def test_dense_sums_travel_exactly() -> None:
    content = wire.write_payload(payload(), "dense", "float64")
    received = wire.read_payload(content, replace(EXPECTED, encoding="dense"))
    sent = payload().statistics["a+b"].sums()
    for mine, theirs in zip(sent, received.statistics["a+b"].sums(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_client_without_edits_sends_empty_factors() -> None:
    content = wire.write_payload(payload(rank=0), "factors", "auto")
    assert wire.read_payload(content, EXPECTED).statistics["a+b"].factors()[0].shape == (10, 0)


def test_updates_travel_as_products() -> None:
    sent = EditPayload(
        "base",
        "state",
        "memit",
        "joint",
        1,
        updates={"a": LayerUpdate(tensor(4, 1), tensor(1, 6)), "b": LayerUpdate(tensor(4, 4))},
    )
    expected = replace(EXPECTED, kind=wire.UPDATES, groups=("a", "b"))
    received = wire.read_payload(wire.write_payload(sent, "factors", "float64"), expected)
    for name, update in sent.updates.items():
        assert torch.equal(update.dense(), received.updates[name].dense())


@pytest.mark.parametrize("key", ["base", "state", "editor", "mode", "place", "kind", "encoding"])
def test_a_payload_made_for_something_else_is_refused(key: str) -> None:
    content = wire.write_payload(payload(), "factors", "auto")
    with pytest.raises(PayloadError, match=f"{key} is .*expected 'other'"):
        wire.read_payload(content, replace(EXPECTED, **{key: "other"}))


def spoiled(part: str, values: np.ndarray) -> RecordDict:
    content = wire.write_payload(payload(), "factors", "float64")
    arrays = content.array_records["payload"]
    content["payload"] = ArrayRecord({**arrays, f"a+b/{part}": Array(values)})
    return content


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("keys", np.full((10, 2), np.nan), "NaN or infinity"),
        ("keys", np.ones((9, 2)), r"shape \(9, 2\), expected \(10, 2\)"),
        ("residuals", np.ones((4, 3)), r"shape \(4, 3\), expected \(4, 2\)"),
        ("keys", np.ones((10, 2), dtype=np.int64), "float32 or float64 is needed"),
        ("keys", np.ones(10), "has shape"),
    ],
)
def test_a_malformed_array_is_refused(part: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        wire.read_payload(spoiled(part, values), EXPECTED)


def test_more_columns_than_rows_are_refused() -> None:
    content = wire.write_payload(payload(rank=11), "factors", "float64")
    with pytest.raises(PayloadError, match="not compressed"):
        wire.read_payload(content, EXPECTED)


@pytest.mark.parametrize("text", ["{", "[1]", '{"schema": 2}', '{"schema": 1}'])
def test_a_damaged_description_is_refused(text: str) -> None:
    content = wire.write_payload(payload(), "factors", "auto")
    content["meta"] = ConfigRecord({"json": text})
    with pytest.raises(PayloadError):
        wire.read_payload(content, EXPECTED)


def test_a_missing_record_is_refused() -> None:
    with pytest.raises(PayloadError, match="no record 'payload'"):
        wire.read_payload(RecordDict(), EXPECTED)


def test_an_order_and_its_state_travel() -> None:
    state = EditState("base", 1, {"a": LayerUpdate(tensor(4, 1), tensor(1, 6))})
    order = wire.TrainOrder(
        spec=SPEC,
        variant="CollabEdit memit",
        round=2,
        sweep=1,
        exchange=0,
        rounds=3,
        settings={"clients": 8},
        reply="statistics",
        pooled=False,
        encoding="factors",
        dtype="auto",
        round_state="abc",
        on_base=True,
        part=wire.ADDED,
    )
    received, arrived = wire.read_order(wire.write_order(order, state))
    assert received == order
    assert arrived.fingerprint == state.fingerprint
    assert arrived.round == 1


def test_sums_add_up_over_clients() -> None:
    first = wire.read_sums(wire.write_sums({"efficacy": (1.5, 1.25, 2)}))
    total = wire.add_sums([first, {"efficacy": (1.0, 1.0, 1), "paraphrase": (0.5, 0.25, 1)}])
    assert total == {"efficacy": (2.5, 2.25, 3), "paraphrase": (0.5, 0.25, 1)}


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0],
        3.0,
        [1.0, float("nan"), 1.0],
        [3.0, 2.0, 2.0],
        [1.0, -1.0, 2.0],
        [0.0, 0.0, -1.0],
        [1.0, 1.0, 1.5],
        [1.0, 1.0, 0.0],
    ],
)
def test_a_malformed_measurement_is_refused(values: list[float] | float) -> None:
    with pytest.raises(PayloadError):
        wire.read_sums(MetricRecord({"efficacy": values}))


@pytest.mark.parametrize("name", ["", "<b>", "a" * 200, "a\nb", "ä"])
def test_a_name_that_could_not_be_shown_is_refused(name: str) -> None:
    with pytest.raises(PayloadError, match="plain name"):
        wire.read_sums(MetricRecord({name: [1.0, 1.0, 1.0]}))


def test_costs_are_read_by_name() -> None:
    costs = {"seconds-targets": 1.5, "optimized": 3}
    assert wire.read_costs(RecordDict({"metrics": MetricRecord(costs)})) == costs
    assert wire.read_costs(RecordDict()) == {}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), -0.5, [1.0], 10**30])
def test_impossible_costs_are_refused(value: float) -> None:
    with pytest.raises(PayloadError, match="a number from 0 on"):
        wire.read_costs(RecordDict({"metrics": MetricRecord({"optimized": value})}))


def test_a_claim_of_no_round_is_refused() -> None:
    """A round before the first would win every dispute that the first comer wins."""
    early = RecordDict({"conflict": wire.write_claims([wire.Claim(0, 0, "q:a")])})
    with pytest.raises(PayloadError, match="counted from 1"):
        wire.read_claims(early)


def test_an_order_that_lacks_something_is_refused() -> None:
    order = wire.TrainOrder(SPEC, "v", 1, 0, 0, 1, {}, "statistics", False, "factors", "auto", "s")
    content = wire.write_order(order, EditState("base"))
    text = str(content.config_records["config"]["json"])
    for found in (text.replace('"sweep": 0, ', ""), text.replace('"sweep": 0', '"sweep": "0"')):
        content["config"] = ConfigRecord({"json": found})
        with pytest.raises(PayloadError, match="sweep"):
            wire.read_order(content)

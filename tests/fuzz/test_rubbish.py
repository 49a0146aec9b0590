"""Costs, measurements and settlements that make no sense end for the node that sent them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from fleke_flwr.artifacts import read_json
from fleke_flwr.errors import PayloadError
from fleke_flwr.strategies.nodes import reason
from fleke_flwr.strategies.rounds import RoundRecord, note_costs
from tests.apps.federation import federation, run_config, write_records

Spoil = Callable[[RecordDict], None]


def metrics(**values: Any) -> Spoil:
    def spoil(content: RecordDict) -> None:
        content["metrics"] = MetricRecord({n.replace("_", "-"): v for n, v in values.items()})

    return spoil


def measured(*values: float) -> Spoil:
    def spoil(content: RecordDict) -> None:
        content["measurements-own"] = MetricRecord({"efficacy": list(values)})

    return spoil


CASES: dict[str, tuple[str, Spoil, str]] = {
    "seconds": ("train.edit", metrics(seconds_targets=float("nan")), "a number from 0 on"),
    "infinite": ("train.edit", metrics(optimized=float("inf")), "a number from 0 on"),
    "negative": ("train.edit", metrics(count_known=-3), "a number from 0 on"),
    "list": ("evaluate.edit", metrics(optimized=[1.0]), "a number from 0 on"),
    "markup": ("train.edit", metrics(**{"seconds_<b>": 1.0}), "plain name"),
    "too good": ("evaluate.edit", measured(5.0, 3.0, 3.0), "which no values add up to"),
    "too many": ("evaluate.edit", measured(4.0, 4.0, 4.0), "4 records measured of 3 announced"),
}


@pytest.mark.parametrize("case", CASES)
def test_rubbish_is_named_and_left_out(case: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    kind, spoil, why = CASES[case]

    def tamper(partition: int, order: Message, reply: Message) -> Message:
        edited = bool(order.content.array_records["state"])
        if partition != 1 or order.metadata.message_type != kind:
            return reply
        if kind == "train.edit" or edited:
            spoil(reply.content)
        return reply

    records = write_records(tmp_path / "records.jsonl", [3, 3, 3])
    config = run_config(tiny_gpt2, records, tmp_path, min_clients=2)
    federation(config, tamper=tamper)[0].run()
    row = read_json(Path(config.output_dir) / "metrics.json")["history"][0]
    assert list(row["left_out"]) == ["1"]
    assert why in row["left_out"]["1"]


@pytest.mark.parametrize("memory", ["none", "statistics"])
def test_an_old_answer_is_named_and_left_out(memory: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    """Statistics of the base model belong to the same state in every round."""
    kept: list[RecordDict] = []

    def tamper(partition: int, order: Message, reply: Message) -> Message:
        if partition != 1 or order.metadata.message_type != "train.edit":
            return reply
        kept.append(RecordDict(dict(reply.content)))
        return Message(kept[0], reply_to=order)

    records = write_records(tmp_path / "records.jsonl", [4, 4, 4])
    config = run_config(tiny_gpt2, records, tmp_path, min_clients=2, rounds=2, memory=memory)
    federation(config, tamper=tamper)[0].run()
    history = read_json(Path(config.output_dir) / "metrics.json")["history"]
    assert [list(row["left_out"]) for row in history] == [[], ["1"]]
    assert "an old message" in history[1]["left_out"]["1"]


def test_refused_costs_leave_no_trace() -> None:
    record = RoundRecord(1)
    content = RecordDict({"metrics": MetricRecord({"optimized": 3, "reused": -1})})
    reply: Any = SimpleNamespace(content=content)
    with pytest.raises(PayloadError):
        note_costs(reply, record)
    assert record == RoundRecord(1)


def test_a_reason_is_short_and_without_control() -> None:
    error = SimpleNamespace(code=2, reason="Traceback\n" + "\x1b[2J" * 10_000)
    reply: Any = SimpleNamespace(error=error)
    assert len(reason(reply)) < 600
    assert reason(reply).isprintable()

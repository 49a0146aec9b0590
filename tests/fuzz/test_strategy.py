"""A node that sends rubbish is named and left out, and the run goes on without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fleke_flwr.artifacts import read_json
from tests.apps.federation import federation, run_config, write_records
from tests.fuzz.wire_cases import with_header

Change = Callable[[RecordDict], RecordDict]


def arrays(change: Callable[[str, Array], Array]) -> Change:
    """Change every array of a reply."""

    def changed(content: RecordDict) -> RecordDict:
        found = content.array_records["payload"]
        content["payload"] = ArrayRecord({name: change(name, a) for name, a in found.items()})
        return content

    return changed


def described(**fields: Any) -> Change:
    """Change fields of a reply's description."""

    def changed(content: RecordDict) -> RecordDict:
        meta = json.loads(str(content.config_records["meta"]["json"]))
        content["meta"] = ConfigRecord({"json": json.dumps({**meta, **fields})})
        return content

    return changed


def lying(name: str, array: Array) -> Array:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9), }"
    return Array("float64", (99999999999, 9), "numpy.ndarray", with_header(header))


def times(factor: float, part: str) -> Change:
    return arrays(
        lambda name, array: Array(array.numpy() * factor) if name.endswith(part) else array
    )


def more_columns(name: str, array: Array) -> Array:
    return Array(np.concatenate([array.numpy()] * 2, axis=1))


CASES: dict[str, tuple[Change, str]] = {
    "nothing": (lambda content: RecordDict(), "no record"),
    "cut": (
        arrays(lambda name, a: Array(a.dtype, a.shape, a.stype, a.data[:-3])),
        "bytes of numbers",
    ),
    "a lying shape": (arrays(lying), "bytes of numbers"),
    "a pickle": (
        arrays(lambda name, a: Array(a.dtype, a.shape, "pickle", b"\x80\x04.")),
        "serialised as",
    ),
    "deep": (lambda content: with_text(content, "[" * 100_000), "not JSON"),
    "a count of minus one": (described(edits=-1), "a count is needed"),
    "more edits than it has": (
        described(edits=9, groups={"+".join(f"transformer.h.{i}.mlp.c_proj" for i in range(3)):
                                   {"count": 9}}),
        "can stand behind 3",
    ),
    "more columns than edits": (arrays(more_columns), "columns for 3 edits"),
    "ten thousand times the residuals": (times(1e4, "residuals"), "changes the output"),
    "long keys that write nothing": (
        lambda content: times(0.0, "residuals")(times(1e3, "keys")(content)),
        "times as long",
    ),
    "overflow": (times(1e30, "keys"), "overflow|times as long"),
}  # fmt: skip


def with_text(content: RecordDict, text: str) -> RecordDict:
    content["meta"] = ConfigRecord({"json": text})
    return content


@pytest.mark.parametrize("case", CASES)
def test_rubbish_is_named_and_left_out(case: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    change, reason = CASES[case]

    def tamper(partition: int, order: Message, reply: Message) -> Message:
        if partition == 1 and order.metadata.message_type == "train.edit":
            return Message(change(reply.content), reply_to=order)
        return reply

    records = write_records(tmp_path / "records.jsonl", [3, 3, 3])
    config = run_config(tiny_gpt2, records, tmp_path, min_clients=2)
    federation(config, tamper=tamper)[0].run()
    row = read_json(Path(config.output_dir) / "metrics.json")["history"][0]
    assert list(row["left_out"]) == ["1"]
    assert any(part in row["left_out"]["1"] for part in reason.split("|"))
    assert row["edits"] == 6

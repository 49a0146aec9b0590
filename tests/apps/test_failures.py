"""What happens when clients fail, lie or disappear, and what is left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message

from fleke_flwr.artifacts import read_json
from fleke_flwr.errors import ConfigError, DataError, RunError
from fleke_flwr.models.loading import load_model
from tests.apps.federation import federation, run_config, write_records


def start(model: Path, directory: Path, **options: Any) -> Any:
    tamper = options.pop("tamper", None)
    order = options.pop("order", None)
    records = write_records(directory / "records.jsonl", [3, 3, 3])
    config = run_config(model, records, directory, **options)
    experiment, grid = federation(config, tamper=tamper, order=order)
    return experiment, grid, config


def spoil(change: Any) -> Any:
    """Return a tamper function that changes client 1's payload."""

    def tamper(partition: int, order: Message, reply: Message) -> Message | None:
        if partition != 1 or order.metadata.message_type != "train.edit":
            return reply
        return change(reply)

    return tamper


def with_nan(reply: Message) -> Message:
    arrays = reply.content.array_records["payload"]
    name = next(iter(arrays))
    values = arrays[name].numpy().copy()
    values.flat[0] = np.nan
    reply.content["payload"] = ArrayRecord({**arrays, name: Array(values)})
    return reply


def with_wrong_shape(reply: Message) -> Message:
    arrays = reply.content.array_records["payload"]
    name = next(iter(arrays))
    reply.content["payload"] = ArrayRecord({**arrays, name: Array(arrays[name].numpy()[:-1])})
    return reply


def with_other_base(reply: Message) -> Message:
    text = str(reply.content.config_records["meta"]["json"])
    base = read_base(text)
    reply.content.config_records["meta"]["json"] = text.replace(base, "0123456789abcdef", 1)
    return reply


def read_base(text: str) -> str:
    return text.split('"base": "')[1].split('"')[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_nan, "NaN or infinity"),
        (with_wrong_shape, "has shape"),
        (with_other_base, "another base model"),
        (lambda reply: None, "no reply within"),
    ],
)
def test_a_bad_client_is_named_and_left_out(
    change: Any, reason: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    experiment, _, config = start(
        tiny_gpt2, tmp_path, tamper=spoil(change), min_clients=2, timeout=0.3
    )
    experiment.run()
    row = read_json(Path(config.output_dir) / "metrics.json")
    left_out = row["history"][0]["left_out"]
    assert list(left_out) == ["1"]
    assert reason in left_out["1"]
    assert row["history"][0]["edits"] == 6


def test_a_client_that_raises_is_named(tiny_gpt2: Path, tmp_path: Path) -> None:
    def tamper(partition: int, order: Message, reply: Message) -> Message:
        failed = partition == 2 and order.metadata.message_type == "train.edit"
        return Message(Error(2, "Traceback\nValueError: boom"), reply_to=order) if failed else reply

    experiment, _, config = start(tiny_gpt2, tmp_path, tamper=tamper, min_clients=2)
    experiment.run()
    row = read_json(Path(config.output_dir) / "metrics.json")
    assert row["history"][0]["left_out"] == {"2": "ValueError: boom"}


def test_too_few_good_replies_end_the_run_with_the_reasons(tiny_gpt2: Path, tmp_path: Path) -> None:
    def tamper(partition: int, order: Message, reply: Message) -> Message:
        if order.metadata.message_type != "train.edit":
            return reply
        return Message(Error(2, "ValueError: boom"), reply_to=order)

    experiment, _, config = start(tiny_gpt2, tmp_path, tamper=tamper)
    with pytest.raises(RunError, match=r"0 good replies of 3, 3 are needed.*client 0: .*boom"):
        experiment.run()
    assert not (Path(config.output_dir) / "metrics.json").exists()
    assert not (Path(config.output_dir) / "edits.safetensors").exists()


def test_the_result_does_not_depend_on_the_order_of_replies(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    results = []
    for place, order in enumerate(([0, 1, 2], [2, 0, 1])):
        directory = tmp_path / str(place)
        directory.mkdir()
        experiment, _, config = start(tiny_gpt2, directory, order=order)
        experiment.run()
        results.append((Path(config.output_dir) / "edits.safetensors").read_bytes())
    assert results[0] == results[1]


def test_the_model_is_as_before_after_a_run(tiny_gpt2: Path, tmp_path: Path) -> None:
    experiment, _, config = start(tiny_gpt2, tmp_path, strategies="collabedit,ties")
    model = load_model(config.model).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    experiment.run()
    assert all((before[name] == tensor).all() for name, tensor in model.state_dict().items())


def test_an_unknown_strategy_fails_before_any_work(tiny_gpt2: Path, tmp_path: Path) -> None:
    experiment, grid, _ = start(tiny_gpt2, tmp_path, strategy="colabedit")
    with pytest.raises(ConfigError, match="Did you mean 'collabedit'"):
        experiment.run()
    assert grid.sent == []


def test_more_edits_than_records_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    experiment, _, _ = start(tiny_gpt2, tmp_path, data__edits=100)
    with pytest.raises(DataError, match="100 edits are asked for and the clients hold 9"):
        experiment.run()


def test_global_is_refused_where_nodes_bring_their_own_data(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    experiment, grid, config = start(tiny_gpt2, tmp_path, strategy="global")
    for context in grid.contexts.values():
        context.node_config["data-path"] = config.data.path
    with pytest.raises(RunError, match="pools the records of all clients"):
        experiment.run()


def test_no_text_of_a_record_leaves_a_client(tiny_gpt2: Path, tmp_path: Path) -> None:
    experiment, grid, _ = start(tiny_gpt2, tmp_path)
    experiment.run()
    for reply in grid.received:
        for record in reply.content.config_records.values():
            assert "Person" not in str(dict(record))
        for arrays in reply.content.array_records.values():
            assert all(b"Person" not in array.data for array in arrays.values())

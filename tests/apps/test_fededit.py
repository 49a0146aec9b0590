"""FedEdit through Flower's messages: what leaves a client, what it keeps, and what it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message

from fleke_flwr import wire
from fleke_flwr.apps import solutions
from fleke_flwr.apps.experiment import Experiment
from fleke_flwr.artifacts import read_json
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.errors import RunError
from fleke_flwr.models.loading import load_model
from fleke_flwr.models.tokens import encode
from fleke_flwr.state import EditState
from tests.apps.federation import federation, run_config, write_records
from tests.strategies.memory_grid import MemoryGrid


def configure(model: Path, directory: Path, sizes: list[int], **settings: Any) -> RunConfig:
    directory.mkdir(exist_ok=True)
    records = write_records(directory / "records.jsonl", sizes)
    chosen = {"strategy": "fededit_no_condition", "clients": len(sizes), **settings}
    return run_config(model, records, directory, **chosen)


def play(config: RunConfig, **grid_options: Any) -> tuple[Experiment, MemoryGrid, dict[str, Any]]:
    experiment, grid = federation(config, **grid_options)
    experiment.run()
    return experiment, grid, experiment.rows[0]


def personal_models(config: RunConfig) -> dict[int, EditState]:
    (folder,) = (Path(config.output_dir) / "personal").iterdir()
    return {
        int(path.stem.removeprefix("client-")): EditState.load(path) for path in folder.iterdir()
    }


def metric(message: Message, name: str) -> Any:
    return message.content.metric_records["metrics"][name]


def of_kind(grid: MemoryGrid, kind: str) -> list[Message]:
    """Return the replies of a kind by round and partition."""
    found = [reply for reply in grid.received if reply.metadata.message_type == kind]
    return sorted(
        found,
        key=lambda reply: (int(reply.metadata.group_id), metric(reply, "partition-id")),
    )


def assert_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    assert set(first) == set(second)
    for name, update in first.items():
        torch.testing.assert_close(update.dense(), second[name].dense(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", ["joint", "frozen"])
def test_everybody_who_takes_everything_has_the_pooled_model(
    mode: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    config = configure(tiny_gpt2, tmp_path / "fed", [4, 2, 1], mode=mode)
    _, grid, row = play(config)
    bound = configure(tiny_gpt2, tmp_path / "bound", [4, 2, 1], mode=mode, strategy="global")
    play(bound)
    pooled = EditState.load(Path(bound.output_dir) / "edits.safetensors")
    models = personal_models(config)
    assert sorted(models) == [0, 1, 2]
    for state in models.values():
        assert_same(state.updates, pooled.updates)
    assert row["edits"] == 7
    assert row["exchange"]["optimizations_saved"] == 3 + 5 + 6
    assert sum(row["targets"].values()) == 7
    assert not (Path(config.output_dir) / "edits.safetensors").exists()
    assert len(of_kind(grid, "train.share")) == len(of_kind(grid, "train.reedit")) == 3


def test_two_slots_pool_to_the_same_model_as_one(tiny_gpt2: Path, tmp_path: Path) -> None:
    one = configure(tiny_gpt2, tmp_path / "one", [4, 3])
    two = configure(tiny_gpt2, tmp_path / "two", [4, 3], rounds=2)
    play(one)
    _, grid, row = play(two)
    first, second = personal_models(one), personal_models(two)
    for client in (0, 1):
        assert_same(first[client].updates, second[client].updates)
        assert second[client].round == 2
    assert [record["edits"] for record in row["history"]] == [4, 3]
    assert [metric(reply, "num-examples") for reply in of_kind(grid, "train.share")] == [2, 2, 2, 1]


@pytest.mark.parametrize("exchange", ["vectors", "tokens"])
@pytest.mark.parametrize("rule", ["pooled", "own_keys", "paper"])
def test_every_rule_and_exchange_teaches_the_others_edits(
    rule: str, exchange: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    config = configure(
        tiny_gpt2, tmp_path / "fed", [3, 3],
        rounds=2, fededit__rule=rule, fededit__exchange=exchange,
        edit__steps=15, edit__ridge_weight=0.1, edit__clamp=8.0,
    )  # fmt: skip
    *_, row = play(config)
    assert row["final_all"]["efficacy_magnitude"] > row["base"]["efficacy_magnitude"]
    assert row["final_received"] is not None
    assert row["exchange"]["selected"] == row["exchange"]["received"] == 6


def test_own_keys_protect_what_the_papers_rule_forgets(tiny_gpt2: Path, tmp_path: Path) -> None:
    lost = {}
    for rule in ("paper", "own_keys"):
        sizes, weak = [6, 6, 6], {"edit__ridge_weight": 0.1, "fededit__rule": rule}
        config = configure(tiny_gpt2, tmp_path / rule, sizes, **weak)
        play(config)
        before = configure(
            tiny_gpt2, tmp_path / f"{rule}-alone", sizes,
            strategy="fededit", fededit__alpha=2.0, **weak,
        )  # fmt: skip
        play(before)
        model = load_model(config.model)
        after, alone = personal_models(config)[0], personal_models(before)[0]
        lost[rule] = _change_on_own_keys(model, config, after, alone)
    assert lost["own_keys"] < 0.7 * lost["paper"]


def _change_on_own_keys(model: Any, config: RunConfig, after: EditState, alone: EditState) -> float:
    from fleke_flwr.apps.recipe import resolve_recipe
    from fleke_flwr.editors.memit import Memit

    cases = [case for case in load_cases(config.data).cases if case.request.relation == "r0"]
    editor = Memit(resolve_recipe(config, model))
    readings = editor.readings(model, [case.request for case in cases], editor.spec.layers)
    parts = []
    for layer, keys in readings.keys.items():
        name = model.module_name(layer)
        change = after.updates[name].dense() - alone.updates[name].dense()
        parts.append(change @ keys)
    return float(torch.stack(parts).sum(dim=0).norm())


def bytes_sent(grid: MemoryGrid) -> bytes:
    """Return every byte of every reply of the clients."""
    found = []
    for reply in grid.received:
        content = reply.content
        for name, arrays in content.array_records.items():
            found.append(name.encode())
            found += [key.encode() + array.data for key, array in arrays.items()]
        for name, record in [*content.config_records.items(), *content.metric_records.items()]:
            found.append(f"{name} {json.dumps(dict(record), ensure_ascii=False)}".encode())
    return b"\0".join(found)


def traces_of_text(config: RunConfig) -> dict[str, list[bytes]]:
    """Return what each record would leave behind if its text were sent."""
    model = load_model(config.model)
    found: dict[str, list[bytes]] = {}
    for case in load_cases(config.data).cases:
        request = case.request
        texts = (request.subject, request.prompt, request.text, request.target)
        traces = [text.encode() for text in texts if len(text) > 3]
        traces.append(json.dumps(request.case_id).encode())
        for text in (request.text, request.subject):
            ids = encode(model, text)
            assert len(ids) > 1
            for dtype in (torch.int64, torch.int32, torch.int16):
                traces.append(torch.tensor(ids, dtype=dtype).numpy().tobytes())
            traces.append(torch.tensor(ids, dtype=torch.float64).numpy().tobytes())
            traces.append(", ".join(map(str, ids)).encode())
        found[request.case_id] = traces
    return found


@pytest.mark.parametrize("rule", ["pooled", "own_keys", "paper"])
def test_no_text_leaves_a_client(rule: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2], rounds=2, fededit__rule=rule)
    _, grid, _ = play(config)
    sent = bytes_sent(grid)
    for case, traces in traces_of_text(config).items():
        for trace in traces:
            assert trace not in sent, f"{trace!r} of record {case} was sent"


def test_tokens_show_the_text_and_say_so(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2], fededit__exchange="tokens")
    experiment, grid, _ = play(config)
    sent = bytes_sent(grid)
    assert all(traces[0] in sent for traces in traces_of_text(config).values())
    events = (experiment.directory / "events.jsonl").read_text(encoding="utf-8")
    assert "to the server and to all other clients" in events


def test_nobody_qualifies(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2], strategy="fededit", fededit__alpha=1.5)
    *_, row = play(config)
    assert row["exchange"]["received"] == 5
    assert row["exchange"]["selected"] == 0
    assert row["exchange"]["bytes_per_saved"] is None
    assert row["final_received"]["efficacy"] is None
    assert row["final"]["efficacy_magnitude"] > row["base"]["efficacy_magnitude"]


def test_a_slot_without_records_and_a_client_without_any(tiny_gpt2: Path, tmp_path: Path) -> None:
    """One record in two slots leaves the second empty; the last client holds nothing at all."""
    config = configure(tiny_gpt2, tmp_path / "fed", [1, 4], rounds=2, clients=3)
    records = write_records(tmp_path / "fed" / "records.jsonl", [1, 4])
    assert records.is_file()
    _, grid, row = play(config)
    models = personal_models(config)
    assert sorted(models) == [0, 1, 2]
    assert_same(models[2].updates, models[0].updates)
    assert row["edits"] == 5
    assert {entry["client"]: entry["edits"] for entry in row["per_client"]}[2] == 0
    assert [metric(reply, "num-examples") for reply in of_kind(grid, "train.share")][-3:] != [0] * 3


def test_a_client_that_misses_a_slot_comes_back(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Its records of the missed slot are edited, and it is handed what it has missed."""

    def deaf(partition: int, order: Message, reply: Message) -> Message | None:
        missing = partition == 1 and order.content.config_records["config"]["server-round"] == 1
        return None if missing else reply

    config = configure(
        tiny_gpt2, tmp_path / "fed", [3, 3], rounds=2, min_clients=1, evaluation__every=0
    )
    experiment, grid = federation(config)
    answer = grid._answer

    def unreachable(message: Message) -> Message | None:
        first = json.loads(message.content.config_records["config"].get("json", "{}")).get("round")
        kind = message.metadata.message_type
        if (
            first == 1
            and kind.startswith("train")
            and grid._partition(message.metadata.dst_node_id)
        ):
            return None
        return answer(message)

    grid._answer = unreachable  # type: ignore[method-assign]
    experiment.run()
    row = experiment.rows[0]
    assert [record["edits"] for record in row["history"]] == [2, 4]
    assert "1" in row["history"][0]["left_out"]
    whole = configure(tiny_gpt2, tmp_path / "whole", [3, 3], rounds=2)
    play(whole)
    expected = personal_models(whole)
    for client, state in personal_models(config).items():
        assert_same(state.updates, expected[client].updates)


def test_a_message_that_comes_twice_changes_nothing(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2])
    experiment, grid = federation(config)
    answer = grid._answer

    def twice(message: Message) -> Message | None:
        if message.metadata.message_type.startswith("train"):
            answer(message)
        return answer(message)

    grid._answer = twice  # type: ignore[method-assign]
    experiment.run()
    once = configure(tiny_gpt2, tmp_path / "once", [3, 2])
    play(once)
    expected = personal_models(once)
    for client, state in personal_models(config).items():
        assert_same(state.updates, expected[client].updates)


def test_variants_of_one_run_do_not_mix(tiny_gpt2: Path, tmp_path: Path) -> None:
    both = configure(
        tiny_gpt2, tmp_path / "both", [3, 2],
        strategies="fededit_no_condition,fededit", fededit__alpha=1.5,
    )  # fmt: skip
    experiment, _ = federation(both)
    experiment.run()
    rows = {row["strategy"]: row for row in experiment.rows}
    assert rows["fededit_no_condition"]["exchange"]["selected"] == 5
    assert rows["fededit"]["exchange"]["selected"] == 0
    alone = configure(tiny_gpt2, tmp_path / "alone", [3, 2], strategy="fededit", fededit__alpha=1.5)
    *_, row = play(alone)
    for name in ("efficacy_magnitude", "paraphrase_magnitude"):
        assert rows["fededit"]["final"][name] == pytest.approx(row["final"][name], abs=1e-9)


@pytest.mark.parametrize("similarity", ["targets", "centred", "changes", "keys"])
def test_a_quantile_takes_what_is_as_alike_as_ones_own(
    similarity: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    taken = []
    for quantile in (0.0, 1.0):
        config = configure(
            tiny_gpt2, tmp_path / f"{quantile}", [4, 4],
            strategy="fededit", fededit__quantile=quantile, fededit__similarity=similarity,
        )  # fmt: skip
        *_, row = play(config)
        taken.append(row["exchange"]["selected"])
    assert taken[0] >= taken[1]
    assert taken[1] < 8


def test_noise_is_seeded_and_moves_only_what_is_uploaded(tiny_gpt2: Path, tmp_path: Path) -> None:
    def uploads(name: str, noise: float) -> list[dict[str, torch.Tensor]]:
        config = configure(tiny_gpt2, tmp_path / name, [3, 2], fededit__noise=noise)
        _, grid, _ = play(config)
        return [
            wire.unpack_tensors(reply.content.array_records["payload"])
            for reply in of_kind(grid, "train.share")
        ]

    clean, first, again = uploads("clean", 0.0), uploads("first", 0.1), uploads("again", 0.1)
    for exact, noisy, repeated in zip(clean, first, again, strict=True):
        for name, tensor in exact.items():
            assert torch.equal(noisy[name], repeated[name])
            relative = (noisy[name] - tensor).norm(dim=1) / tensor.norm(dim=1)
            assert 0.03 < float(relative.mean()) < 0.3


def tamper_share(change: Any) -> Any:
    def tamper(partition: int, order: Message, reply: Message) -> Message | None:
        if partition == 0 and order.metadata.message_type == "train.share":
            return change(order, reply)
        return reply

    return tamper


def with_tensor(reply: Message, name: str, tensor: torch.Tensor) -> Message:
    tensors = wire.unpack_tensors(reply.content.array_records["payload"])
    reply.content["payload"] = wire.pack_tensors({**tensors, name: tensor})
    return reply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _, r: with_tensor(r, "targets", torch.full((3, 32), torch.nan)), "NaN"),
        (lambda _, r: with_tensor(r, "targets", torch.zeros(3, 7)), "hidden"),
        (lambda _, r: with_tensor(r, "keys/other", torch.zeros(3, 7)), "was not asked for"),
        (lambda _, r: None, "no reply"),
        (lambda order, _: Message(Error(1, "boom"), reply_to=order), "boom"),
    ],
)
def test_a_bad_upload_is_named_and_left_out(
    change: Any, reason: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2], min_clients=1)
    experiment, _ = federation(config, tamper=tamper_share(change))
    experiment.run()
    row = experiment.rows[0]
    assert reason in row["history"][0]["left_out"]["0"]
    assert row["edits"] == 2
    strict = configure(tiny_gpt2, tmp_path / "strict", [3, 2])
    experiment, _ = federation(strict, tamper=tamper_share(change))
    with pytest.raises(RunError, match="1 good replies of 2, 2 are needed"):
        experiment.run()


def test_text_in_an_exchange_of_vectors_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    def talk(_: Message, reply: Message) -> Message:
        texts = [("{} is", "Ada", "x")] * 3
        reply.content["texts"] = wire.vectors._write_texts(texts)
        return reply

    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2], min_clients=1)
    experiment, _ = federation(config, tamper=tamper_share(talk))
    experiment.run()
    assert "this exchange carries none" in experiment.rows[0]["history"][0]["left_out"]["0"]


def test_metrics_say_what_was_saved(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2])
    play(config)
    row = read_json(Path(config.output_dir) / "metrics.json")
    exchange = row["exchange"]
    assert exchange["optimizations_saved"] == 5
    assert exchange["seconds_saved"] == pytest.approx(
        5 * exchange["seconds_per_optimization"], abs=1e-2
    )
    assert exchange["bytes_per_saved"] > 0
    assert row["payload"]["up_bytes"] == 5 * (2 * 32 + 3 * 64) * 8


def test_protecting_own_keys_is_the_pooled_solution_in_steps(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    """Recursive least squares: own first, the rest on top with own keys held, is all at once."""
    models = []
    for rule in ("pooled", "own_keys"):
        config = configure(tiny_gpt2, tmp_path / rule, [4, 2, 1], fededit__rule=rule)
        play(config)
        models.append(personal_models(config))
    for client, state in models[0].items():
        assert_same(models[1][client].updates, state.updates)


def test_the_bound_may_edit_everything_at_once(tiny_gpt2: Path, tmp_path: Path) -> None:
    settings = {"strategies": "fededit_no_condition,global", "rounds": 2}
    slots = configure(tiny_gpt2, tmp_path / "slots", [4, 3], global_rounds=1, **settings)
    experiment, _ = federation(slots)
    experiment.run()
    fededit, bound = experiment.rows
    assert (fededit["rounds"], bound["rounds"]) == (2, 1)
    assert fededit["edits"] == bound["edits"] == 7
    pooled = EditState.load(Path(slots.output_dir) / "variants" / "global" / "edits.safetensors")
    for state in personal_models(slots).values():
        assert_same(state.updates, pooled.updates)


def test_a_process_that_has_just_started_makes_the_solution_anew(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model_of(name: str) -> dict[int, EditState]:
        config = configure(tiny_gpt2, tmp_path / name, [4, 3], rounds=3, mode="anticipated")
        play(config)
        return personal_models(config)

    kept = model_of("kept")
    monkeypatch.setattr(solutions, "_KEPT", Forgetful())
    for client, state in model_of("forgotten").items():
        assert_same(state.updates, kept[client].updates)


class Forgetful(dict[int, Any]):
    """Keeps nothing."""

    def __setitem__(self, key: int, value: Any) -> None:
        """Drop it."""


def test_text_that_is_no_edit_is_refused_before_it_is_handed_out(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    def spoil(_: Message, reply: Message) -> Message:
        reply.content["texts"] = wire.vectors._write_texts([("no slot", "Ada", "x")] * 3)
        return reply

    settings = {"fededit__exchange": "tokens", "min_clients": 1}
    config = configure(tiny_gpt2, tmp_path / "fed", [3, 2], **settings)
    experiment, _ = federation(config, tamper=tamper_share(spoil))
    experiment.run()
    record = experiment.rows[0]["history"][0]
    assert "0 slots" in record["left_out"]["0"]
    assert record["edits"] == 2

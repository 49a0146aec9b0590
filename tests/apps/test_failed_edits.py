"""Failed edits are kept by their own client, say what the model says now, and travel nowhere."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from fleke_flwr.apps.failed_edits import FailedEdits, folder_of
from fleke_flwr.apps.session import open_session
from fleke_flwr.evaluation.answers import judge
from fleke_flwr.evaluation.quality import evaluate
from fleke_flwr.evaluation.sampling import continue_greedily
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.wire import TrainOrder
from tests.apps.federation import federation, run_config, write_records
from tests.conftest import LoadTiny


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def order_of(variant: str) -> TrainOrder:
    spec = EditSpec("memit", "joint", (0,), 1.0, "even", 0.5, 1, 1.0, 0.5, 0.1, 0.1)
    return TrainOrder(spec, variant, 1, 0, 0, 1, {}, "statistics", False, "factors", "auto", "s")


def literal(model: EditableModel, prompt: str, tokens: int) -> str:
    """Say the likeliest next tokens, one forward pass of everything for each."""
    ids = list(model.tokenizer(prompt)["input_ids"])
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return str(model.tokenizer.decode(ids[start:], skip_special_tokens=True))


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_greedy_answers_are_those_of_one_prompt_at_a_time(
    name: str, batch_tokens: int, load_tiny: LoadTiny, request: pytest.FixtureRequest
) -> None:
    model = load_tiny(request.getfixturevalue(name))
    prompts = ["Mira Tolen", "The home town of Jonas Feld is", "The quiet river near", "Mira Tolen"]
    said = continue_greedily(model, prompts, 5, batch_tokens)
    assert said == {prompt: literal(model, prompt, 5) for prompt in prompts}
    assert continue_greedily(model, [], 5, batch_tokens) == {}


def test_every_client_keeps_its_own_failed_edits(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [3, 3, 3])
    config = run_config(
        tiny_gpt2, records, tmp_path, strategies="collabedit,edit_avg", evaluation__failures=2,
        edit__steps=0,
    )  # fmt: skip
    experiment, _ = federation(config)
    experiment.run()
    answers = Path(config.output_dir) / "answers"
    folders = {row["variant"]: answers / folder_of(row["variant"]) for row in experiment.rows}
    assert set(answers.iterdir()) == set(folders.values())
    for row in experiment.rows:
        folder = folders[row["variant"]]
        for entry in row["per_client"]:
            client = entry["client"]
            kept = read(folder / f"client-{client}.jsonl")
            failed = round(entry["edits"] * (1 - entry["efficacy_top1"] / 100))
            assert len(kept) == min(2, failed)
            assert all(failure["subject"].startswith(f"Person{client}") for failure in kept)
    assert any(read(path) for path in answers.glob("*/*.jsonl"))


def test_clients_with_models_of_their_own_keep_theirs_and_report_their_drift(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [4, 4])
    config = run_config(
        tiny_gpt2, records, tmp_path, strategy="fededit", clients=2, rounds=2,
        evaluation__text_tokens=300,
    )  # fmt: skip
    experiment, _ = federation(config)
    experiment.run()
    (row,) = experiment.rows
    folder = Path(config.output_dir) / "answers" / folder_of(row["variant"])
    for entry in row["per_client"]:
        kept = read(folder / f"client-{entry['client']}.jsonl")
        assert len(kept) == round(entry["edits"] * (1 - entry["efficacy_top1"] / 100))
        # Everybody's records are at hand in a simulation, and still only its own are kept.
        assert all(f"Person{entry['client']} " in failure["prompt"] for failure in kept)
        assert {failure["round"] for failure in kept} <= {2}
    assert row["drift"]["clients"] == row["drift"]["perplexity"]["clients"] == 2
    assert row["drift"]["perplexity"]["after"] != row["drift"]["perplexity"]["before"]
    assert all(norms["relative"] > 0 for norms in row["drift"]["weights"].values())


def test_what_is_kept_is_what_the_models_say(
    load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [4])
    config = run_config(tiny_gpt2, records, tmp_path, clients=1)
    Path(config.output_dir).mkdir(parents=True)
    node = {"partition-id": 0, "num-partitions": 1}
    session = open_session(Context(1, 1, node, RecordDict(), config.to_flat()))
    model, cases = session.model, session.seen(1, 1)
    order = order_of("My way")
    failed = FailedEdits(session, order)
    failed.read(cases, evaluate(model, cases, config.evaluation, 0))
    failed.write()
    kept = read(Path(config.output_dir) / "answers" / "My_way" / "client-0.jsonl")
    assert len(kept) > 1
    questions = [(failure["prompt"], failure["wanted"]) for failure in kept]
    found = judge(model, questions, 4096, Silent())
    for failure, question in zip(kept, questions, strict=True):
        said = " ".join(literal(model, failure["prompt"], 6).split())
        assert failure["now"] == failure["before"] == said
        assert not found[question].is_top
        # Tokens of the answer multiply; the mean over them is judged elsewhere.
        assert failure["probability"] <= math.exp(-found[question].nll) * (1 + 1e-9)


@pytest.mark.parametrize("reason", ["none wanted", "no files"])
def test_nothing_is_kept_where_nothing_shall_be(
    reason: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [2])
    config = run_config(tiny_gpt2, records, tmp_path, clients=1)
    if reason == "none wanted":
        Path(config.output_dir).mkdir(parents=True)
        config = replace(config, evaluation=replace(config.evaluation, failures=0))
    node = {"partition-id": 0, "num-partitions": 1}
    session = open_session(Context(1, 1, node, RecordDict(), config.to_flat()))
    cases = session.seen(1, 1)
    order = order_of("v")
    failed = FailedEdits(session, order)
    failed.read(cases, evaluate(session.model, cases, config.evaluation, 0))
    failed.write()
    assert not list(tmp_path.rglob("client-*.jsonl"))


def test_no_message_holds_a_prompt_or_an_answer(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl", [3, 3, 3])
    replies: list[str] = []

    def listen(partition: int, order: Message, reply: Message) -> Message:
        replies.append(str(reply.content))
        return reply

    config = run_config(tiny_gpt2, records, tmp_path, edit__steps=0)
    experiment, _ = federation(config, tamper=listen)
    experiment.run()
    kept = [
        failure
        for path in (Path(config.output_dir) / "answers").glob("*/*.jsonl")
        for failure in read(path)
    ]
    assert kept
    text = "\n".join(replies)
    for failure in kept:
        assert failure["subject"] not in text
        assert failure["prompt"] not in text

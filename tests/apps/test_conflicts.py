"""Contradicting edits, through Flower's real messages: found, settled, merged again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.data.augmentation import Repeat
from fleke_flwr.errors import ConfigError
from fleke_flwr.state import EditState
from fleke_flwr.types import EditRequest
from tests.apps.central import Central, assert_equal, joint, layer_sync
from tests.apps.federation import federation, run_config, write_records

STRENGTH = 2


def finish(model: Path, directory: Path, **settings: Any) -> tuple[EditState, Any, Any]:
    records = write_records(directory / "records.jsonl", [4, 4, 4])
    config = run_config(
        model,
        records,
        directory,
        **{
            "data__rivals": 0.5,
            "conflict__policy": "latest",
            "conflict__augmentation": "repeat",
            "conflict__strength": STRENGTH,
            **settings,
        },
    )
    experiment, grid = federation(config)
    experiment.run()
    return EditState.load(Path(config.output_dir) / "edits.safetensors"), experiment, grid


def question(request: EditRequest) -> tuple[str, str]:
    return request.subject, request.prompt


def settled(central: Central, last: bool) -> tuple[list[EditRequest], list[EditRequest]]:
    """Return what stands after all rounds, and what strengthens the winners."""
    dealt = [central.requests(client) for client in range(central.config.clients)]
    signed = [
        (round_, client, place, request)
        for client, rounds in enumerate(dealt)
        for round_, requests in enumerate(rounds)
        for place, request in enumerate(requests)
    ]
    answers: dict[tuple[str, str], list[Any]] = {}
    for item in sorted(signed, key=lambda item: item[:3]):
        answers.setdefault(question(item[3]), []).append(item[3])
    disputed = {key: found for key, found in answers.items() if len({r.target for r in found}) > 1}
    winners = {key: found[-1 if last else 0] for key, found in disputed.items()}
    standing = [
        item[3]
        for item in signed
        if question(item[3]) not in winners or item[3].target == winners[question(item[3])].target
    ]
    more = [
        extra for winner in winners.values() for extra in Repeat().augment(winner, {}, STRENGTH)
    ]
    return standing, more


@pytest.mark.parametrize("policy", ["latest", "first-come"])
@pytest.mark.parametrize("encoding", ["factors", "dense"])
@pytest.mark.parametrize("place", ["same", "own"])
def test_the_settled_model_never_saw_the_losers(
    policy: str, encoding: str, place: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    found, experiment, _ = finish(
        tiny_gpt2,
        tmp_path,
        conflict__policy=policy,
        encoding=encoding,
        data__rival_place=place,
    )
    central = Central(experiment.config)
    standing, more = settled(central, policy == "latest")
    assert len(standing) == 12
    assert len(more) == 6 * STRENGTH
    assert_equal(found, joint(central, standing + more, {}))
    conflicts = experiment.rows[0]["conflicts"]
    assert (conflicts["disputed"], conflicts["withdrawn"]) == (6, 6)
    assert experiment.rows[0]["edits"] == 12


def test_layer_sync_runs_the_round_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    found, experiment, _ = finish(tiny_gpt2, tmp_path, mode="layer_sync")
    central = Central(experiment.config)
    standing, more = settled(central, last=True)
    assert_equal(found, layer_sync(central, lambda _: standing + more, {}))
    assert experiment.rows[0]["edits"] == 12


@pytest.mark.parametrize("mode", ["joint", "layer_sync"])
@pytest.mark.parametrize("policy", ["latest", "first-come"])
def test_with_statistics_an_edit_of_an_earlier_round_can_be_taken_back(
    mode: str, policy: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    found, experiment, _ = finish(
        tiny_gpt2,
        tmp_path,
        mode=mode,
        memory="statistics",
        rounds=2,
        conflict__policy=policy,
        data__rival_place="next",
    )
    central = Central(experiment.config)
    standing, more = settled(central, policy == "latest")
    everything = standing + more
    expected = (
        joint(central, everything, {})
        if mode == "joint"
        else layer_sync(central, lambda _: everything, {})
    )
    assert_equal(found, expected)


def test_without_a_memory_an_earlier_edit_is_overwritten(tiny_gpt2: Path, tmp_path: Path) -> None:
    found, experiment, _ = finish(tiny_gpt2, tmp_path, rounds=2, data__rival_place="next")
    central = Central(experiment.config)
    first = joint(central, central.everybody(1), {})
    _, more = settled(central, last=True)
    second = joint(central, central.everybody(2) + more, first)
    assert_equal(found, {name: first[name] + second[name] for name in first})


def test_without_a_memory_an_earlier_winner_is_edited_again(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    found, experiment, _ = finish(
        tiny_gpt2,
        tmp_path,
        rounds=2,
        data__rival_place="next",
        conflict__policy="first-come",
    )
    central = Central(experiment.config)
    first = joint(central, central.everybody(1), {})
    _, more = settled(central, last=False)
    won = {question(request): request for request in more}
    again = [request for request in central.everybody(1) if question(request) in won]
    new = [request for request in central.everybody(2) if question(request) not in won]
    second = joint(central, new + again + more, first)
    assert_equal(found, {name: first[name] + second[name] for name in first})


def test_no_text_is_sent_to_find_and_settle(tiny_gpt2: Path, tmp_path: Path) -> None:
    _, experiment, grid = finish(tiny_gpt2, tmp_path)
    central = Central(experiment.config)
    texts = [r.subject for r in central.everybody(1)] + [r.target for r in central.everybody(1)]
    kinds = {message.metadata.message_type for message in grid.sent}
    assert {"query.losers", "query.claims", "train.verdict", "evaluate.pairs"} <= kinds
    for reply in grid.received:
        sent = str(reply.content)
        assert not [text for text in texts if text in sent]


def test_pairs_are_judged_before_and_after(tiny_gpt2: Path, tmp_path: Path) -> None:
    _, experiment, _ = finish(tiny_gpt2, tmp_path)
    conflicts = experiment.rows[0]["conflicts"]
    for when in ("before", "after"):
        assert conflicts[when]["pairs"] == 6
        assert -100 <= conflicts[when]["margin"] <= 100
        assert conflicts[when]["unrelated"]["efficacy"] is not None
    assert conflicts["after"]["margin"] > conflicts["before"]["margin"]


def test_nothing_happens_where_nobody_contradicts(tiny_gpt2: Path, tmp_path: Path) -> None:
    found, experiment, grid = finish(tiny_gpt2, tmp_path, data__rivals=0.0)
    central = Central(experiment.config)
    assert_equal(found, joint(central, central.everybody(1), {}))
    assert experiment.rows[0]["conflicts"]["disputed"] == 0
    assert "train.verdict" not in {message.metadata.message_type for message in grid.sent}


def test_sweeps_and_statistics_cannot_both_be_taken_back(tiny_gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sweeps"):
        finish(tiny_gpt2, tmp_path, memory="statistics", sweeps=2)

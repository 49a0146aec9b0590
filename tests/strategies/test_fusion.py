"""Fusion rules inside strategies: real messages over an in-memory grid, three rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fleke_flwr import wire
from fleke_flwr.config import FUSION_RULES, RunConfig
from fleke_flwr.fusion import MERGED, Fusion, drop_rescale, mask_seed, top_retain
from fleke_flwr.state import EditState
from fleke_flwr.strategies.checkpoint import Checkpoint
from fleke_flwr.types import LayerUpdate
from tests.apps.federation import federation
from tests.apps.test_resume import broken_off, configured, edits, outcome
from tests.strategies.memory_grid import MemoryGrid

RULES = [rule for rule in FUSION_RULES if rule]
STRATEGIES = ["collabedit", "task_arithmetic"]
ELEMENTWISE = ["drop_rescale", "top_retain"]
Updates = Mapping[str, LayerUpdate]


@dataclass
class Heard:
    """What a strategy has asked its rule for."""

    clients: list[tuple[int, int, Updates, Updates]] = field(default_factory=list)
    rounds: list[tuple[Updates, Updates, Updates]] = field(default_factory=list)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Listen to the rule."""
    found = Heard()
    of_client, of_round = Fusion.of_client, Fusion.of_round

    def client_heard(self: Fusion, updates: Updates, round_: int, client: int) -> Updates:
        result = of_client(self, updates, round_, client)
        found.clients.append((round_, client, updates, result))
        return result

    def round_heard(
        self: Fusion, before: Updates, after: Updates, round_: int, of_clients: bool
    ) -> Updates:
        assert round_ == len(found.rounds) + 1
        result = of_round(self, before, after, round_, of_clients)
        found.rounds.append((before, after, result))
        return result

    monkeypatch.setattr(Fusion, "of_client", client_heard)
    monkeypatch.setattr(Fusion, "of_round", round_heard)
    return found


def ran(model: Path, directory: Path, **settings: Any) -> tuple[RunConfig, MemoryGrid]:
    config = configured(model, directory, mode="joint", **settings)
    experiment, grid = federation(config)
    experiment.run()
    return config, grid


def final(config: RunConfig) -> EditState:
    return EditState.load(Path(config.output_dir) / "edits.safetensors")


def dense(updates: Updates) -> dict[str, Tensor]:
    return {module: update.dense() for module, update in updates.items()}


def masked(rule: str, change: Tensor, round_: int, client: int, module: str) -> Tensor:
    """Mask a change as the specification says, from the run's seed and the place alone."""
    if rule == "top_retain":
        return top_retain(LayerUpdate(change), 0.5).dense()
    seed = mask_seed(0, round_, client, module)
    return drop_rescale(LayerUpdate(change), 0.5, seed).dense()


def expected(rule: str, rounds: list[tuple[Updates, Updates, Updates]]) -> dict[str, Tensor]:
    """Return the last model from the changes that the rounds have made on their way."""
    result = {}
    for module in rounds[0][1]:
        zero = torch.zeros_like(rounds[0][1][module].dense())
        start = [before[module].dense() if before else zero for before, _, _ in rounds]
        changes = [
            after[module].dense() - old for (_, after, _), old in zip(rounds, start, strict=True)
        ]
        if rule == "average":
            result[module] = sum(changes, zero) / len(changes)
        elif rule == "wise_ft":
            result[module] = 0.25 * sum(changes, zero)
        elif rule == "lookahead":
            result[module] = 0.25 * (changes[0] + changes[1]) + changes[2]
        else:
            parts = [masked(rule, c, t, MERGED, module) for t, c in enumerate(changes, 1)]
            result[module] = sum(parts, zero)
    return result


SETTINGS = {
    "fusion__drop_rate": 0.5,
    "fusion__keep": 0.5,
    "fusion__weight": 0.25,
    "fusion__every": 2,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_in_every_kind_of_strategy(
    strategy: str, rule: str, tiny_gpt2: Path, tmp_path: Path, heard: Heard
) -> None:
    config, grid = ran(tiny_gpt2, tmp_path, strategy=strategy, fusion__rule=rule, **SETTINGS)
    assert len(heard.rounds) == 3
    state = final(config)
    torch.testing.assert_close(
        dense(state.updates), dense(heard.rounds[-1][2]), rtol=1e-12, atol=1e-14
    )
    # What clients get next is the fused model, and a round's change is counted from it.
    results = [{}, *(dense(result) for _, _, result in heard.rounds)]
    orders = [m for m in grid.sent if m.metadata.message_type == "train.edit"]
    for message, start in zip(orders[::2], results, strict=False):
        sent = wire.read_updates(message.content.array_records["state"])
        torch.testing.assert_close(dense(sent), start, rtol=1e-12, atol=1e-14)
    for (before, _, _), start in zip(heard.rounds, results, strict=False):
        torch.testing.assert_close(dense(before), start, rtol=1e-12, atol=1e-14)
    if strategy == "collabedit" or rule not in ELEMENTWISE:
        wanted = expected(rule, heard.rounds)
        torch.testing.assert_close(dense(state.updates), wanted, rtol=1e-10, atol=1e-12)
    assert bool(heard.clients) == (strategy == "task_arithmetic")


@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_clients_updates_are_masked_before_they_are_merged(
    rule: str, tiny_gpt2: Path, tmp_path: Path, heard: Heard
) -> None:
    config, _ = ran(tiny_gpt2, tmp_path, strategy="task_arithmetic", fusion__rule=rule, **SETTINGS)
    places = [(round_, client) for round_, client, _, _ in heard.clients]
    assert sorted(places) == [(round_, client) for round_ in (1, 2, 3) for client in (0, 1)]
    for module, update in final(config).updates.items():
        parts = [
            masked(rule, sent[module].dense(), round_, client, module)
            for round_, client, sent, _ in heard.clients
        ]
        torch.testing.assert_close(update.dense(), torch.stack(parts).sum(dim=0))


def test_the_bound_is_masked_where_the_merged_model_is(tiny_gpt2: Path, tmp_path: Path) -> None:
    states = [
        final(ran(tiny_gpt2, tmp_path / name, strategy=name, fusion__rule="drop_rescale")[0])
        for name in ("collabedit", "global")
    ]
    found, bound = (dense(state.updates) for state in states)
    torch.testing.assert_close(found, bound, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_rule_nothing_changes(
    strategy: str, tiny_gpt2: Path, tmp_path: Path, heard: Heard
) -> None:
    config, _ = ran(tiny_gpt2, tmp_path / "plain", strategy=strategy)
    assert all(result is after for _, after, result in heard.rounds)
    assert all(result is sent for _, _, sent, result in heard.clients)
    heard.rounds.clear()
    neutral, _ = ran(
        tiny_gpt2,
        tmp_path / "neutral",
        strategy=strategy,
        fusion__rule="drop_rescale",
        fusion__drop_rate=0.0,
    )
    assert final(neutral).fingerprint == final(config).fingerprint
    assert all(update.right is not None for update in final(config).updates.values())


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [("collabedit", "lookahead"), ("task_arithmetic", "lookahead"), ("collabedit", "average")],
)
def test_a_resumed_run_goes_on_with_the_rule(
    strategy: str, rule: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    settings = {"mode": "joint", "strategy": strategy, "fusion__rule": rule, "fusion__every": 1}
    whole = configured(tiny_gpt2, tmp_path / "whole", **settings)
    federation(whole)[0].run()
    config = configured(tiny_gpt2, tmp_path / "broken", **settings)
    broken_off(config, "train.edit", 5)
    kept = Checkpoint.load(next(Path(config.output_dir).glob("checkpoint*")))
    assert len(kept.history) == 2
    assert bool([n for n in kept.tensors if n.startswith("fusion:")]) == (rule == "lookahead")
    federation(replace(config, resume=True))[0].run()
    assert outcome(config) == outcome(whole)
    torch.testing.assert_close(edits(config), edits(whole), rtol=1e-10, atol=1e-13)


def test_a_replayed_round_is_fused_once(tiny_gpt2: Path, tmp_path: Path, heard: Heard) -> None:
    # Settling conflicts solves the round again; only what comes out of that is fused.
    config, _ = ran(
        tiny_gpt2,
        tmp_path,
        conflict__policy="latest",
        data__rivals=0.5,
        fusion__rule="wise_ft",
        **{key: value for key, value in SETTINGS.items() if key == "fusion__weight"},
    )
    assert len(heard.rounds) == 3
    wanted = expected("wise_ft", heard.rounds)
    torch.testing.assert_close(dense(final(config).updates), wanted, rtol=1e-10, atol=1e-12)

"""Fusion rules against their formulas, and against loops that take them literally."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fleke_flwr.config import FUSION_RULES, FusionConfig, RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.fusion import Fusion, check_fusion, drop_rescale, mask_seed, top_retain
from fleke_flwr.types import LayerUpdate, add_updates

MODULE = "h.1.mlp"
RULES = [rule for rule in FUSION_RULES if rule]


def random_update(seed: int = 0, rows: int = 4, columns: int = 6) -> LayerUpdate:
    generator = torch.Generator().manual_seed(seed)
    return LayerUpdate(
        torch.randn(rows, 2, dtype=torch.float64, generator=generator),
        torch.randn(2, columns, dtype=torch.float64, generator=generator),
    )


def fused(
    fusion: Fusion, updates: list[LayerUpdate], start: int = 1, model: LayerUpdate | None = None
) -> list[LayerUpdate]:
    """Return the models after rounds that each add an update to the model they start from."""
    state = {} if model is None else {MODULE: model}
    models = []
    for round_, update in enumerate(updates, start):
        after = add_updates(state, {MODULE: update})
        state = dict(fusion.of_round(state, after, round_, of_clients=False))
        models.append(state[MODULE])
    return models


def dense(updates: list[LayerUpdate]) -> list[Tensor]:
    return [update.dense() for update in updates]


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_masks_are_unbiased_and_vary_as_predicted(rate: float) -> None:
    update = random_update()
    change = update.dense()
    count = 10_000
    drawn = torch.stack([drop_rescale(update, rate, seed).dense() for seed in range(count)])
    variance = rate / (1 - rate) * change**2
    # Five standard errors of the mean.
    assert bool(((drawn.mean(dim=0) - change).abs() <= 5 * (variance / count).sqrt()).all())
    torch.testing.assert_close(drawn.var(dim=0), variance, rtol=0.1, atol=0)
    key = torch.linspace(-1, 2, 6, dtype=torch.float64)
    noise = ((drawn - change) @ key).square().sum(dim=1).mean()
    predicted = rate / (1 - rate) * (change.square() @ key.square()).sum()
    torch.testing.assert_close(noise, predicted, rtol=0.05, atol=0)


def test_entries_are_dropped_or_scaled_and_nothing_else() -> None:
    update = random_update(rows=30, columns=40)
    found, change = drop_rescale(update, 0.75, 3).dense(), update.dense()
    dropped = found == 0
    torch.testing.assert_close(found[~dropped], 4 * change[~dropped])
    assert float(dropped.double().mean()) == pytest.approx(0.75, abs=0.06)


def test_a_mask_is_the_same_in_another_process() -> None:
    program = (
        "import torch; from fleke_flwr.fusion import drop_rescale, mask_seed;"
        "from fleke_flwr.types import LayerUpdate;"
        "ones = LayerUpdate(torch.ones(5, 8, dtype=torch.float64));"
        f"print(drop_rescale(ones, 0.5, mask_seed(7, 2, 1, {MODULE!r})).left.int().tolist())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1"},
    )
    ones = LayerUpdate(torch.ones(5, 8, dtype=torch.float64))
    here = drop_rescale(ones, 0.5, mask_seed(7, 2, 1, MODULE)).left.int().tolist()
    assert other.stdout == f"{here}\n"


def test_seeds_are_those_of_the_specification() -> None:
    # The first 8 bytes of SHA-256 of "fusion 0 1 -1 m", which no version may change.
    assert mask_seed(0, 1, -1, "m") == 8149679612644757860


def test_masks_differ_by_round_client_module_and_seed() -> None:
    config = FusionConfig("drop_rescale", drop_rate=0.5)
    ones = LayerUpdate(torch.ones(10, 20, dtype=torch.float64))

    def mask(seed: int, round_: int, client: int, module: str) -> Tensor:
        return Fusion(config, seed).of_client({module: ones}, round_, client)[module].left

    here = mask(0, 1, 2, "a")
    assert torch.equal(here, mask(0, 1, 2, "a"))
    for place in [(1, 1, 2, "a"), (0, 2, 2, "a"), (0, 1, 3, "a"), (0, 1, 2, "b")]:
        assert not torch.equal(here, mask(*place))


@given(keep=st.floats(0.01, 1), seed=st.integers(0, 1000), equal=st.booleans())
def test_exactly_the_largest_entries_stay(keep: float, seed: int, equal: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    change = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    if equal:
        change = change.sign() * change.abs().round()
    kept = 35 if keep == 1 else max(1, round(keep * 35))
    flat = change.flatten().tolist()
    order = sorted(range(35), key=lambda place: (-abs(flat[place]), place))
    expected = torch.zeros(35, dtype=torch.float64)
    expected[order[:kept]] = change.flatten()[order[:kept]]
    found = top_retain(LayerUpdate(change), keep).dense()
    assert torch.equal(found, expected.reshape(5, 7))


def literal(rule: str, updates: list[LayerUpdate], config: FusionConfig) -> list[Tensor]:
    """Walk through a rule as its source has it, keeping all updates and both sets of weights."""
    changes = [update.dense() for update in updates]
    zero = torch.zeros_like(changes[0])
    slow, fast, models = zero, zero, []
    for count in range(1, len(changes) + 1):
        if rule == "average":
            models.append(sum(changes[:count], zero) / count)
        elif rule == "wise_ft":
            models.append((1 - config.weight) * zero + config.weight * sum(changes[:count], zero))
        else:
            fast = fast + changes[count - 1]
            if count % config.every == 0:
                slow = slow + config.weight * (fast - slow)
                fast = slow
            models.append(fast)
    return models


@pytest.mark.parametrize("rule", ["average", "wise_ft", "lookahead"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_rules_over_rounds_equal_a_literal_loop(rule: str, every: int) -> None:
    config = FusionConfig(rule, weight=0.3, every=every)
    updates = [random_update(seed) for seed in range(7)]
    expected = literal(rule, updates, config)
    torch.testing.assert_close(dense(fused(Fusion(config), updates)), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_going_on_in_the_middle_is_as_if_nothing_had_happened(
    rule: str, dtype: torch.dtype
) -> None:
    config = FusionConfig(rule, every=2)
    updates = [random_update(seed).to(dtype) for seed in range(6)]
    undisturbed = fused(Fusion(config, 5), updates)
    for done in range(1, 6):
        first, second = Fusion(config, 5), Fusion(config, 5)
        before = fused(first, updates[:done])
        second.remember(first.remembered())
        after = fused(second, updates[done:], done + 1, before[-1])
        torch.testing.assert_close(dense(before + after), dense(undisturbed), rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["drop_rescale", "top_retain"])
def test_a_rule_for_entries_acts_once(rule: str) -> None:
    fusion = Fusion(FusionConfig(rule, drop_rate=0.5, keep=0.5))
    before, change = random_update(1), random_update(2)
    of_client = fusion.of_client({MODULE: change}, 1, 0)[MODULE]
    assert int((of_client.dense() == 0).sum()) >= 6
    after = {MODULE: before + of_client}
    assert fusion.of_round({MODULE: before}, after, 1, of_clients=True) is after
    merged = fusion.of_round({MODULE: before}, {MODULE: before + change}, 1, of_clients=False)
    added = merged[MODULE].dense() - before.dense()
    kept = added.abs() > 1e-12
    scale = 2 if rule == "drop_rescale" else 1
    torch.testing.assert_close(added[kept], scale * change.dense()[kept])
    assert 0 < int(kept.sum()) < 24


@pytest.mark.parametrize("rule", ["average", "wise_ft", "lookahead"])
def test_a_rule_over_rounds_leaves_clients_updates_alone(rule: str) -> None:
    updates = {MODULE: random_update()}
    assert Fusion(FusionConfig(rule)).of_client(updates, 1, 0) is updates


@pytest.mark.parametrize(
    "config",
    [
        FusionConfig(),
        FusionConfig("drop_rescale", drop_rate=0.0),
        FusionConfig("top_retain", keep=1.0),
        FusionConfig("wise_ft", weight=1.0),
        FusionConfig("lookahead", weight=1.0, every=1),
    ],
)
def test_what_changes_nothing_keeps_the_very_factors(config: FusionConfig) -> None:
    fusion = Fusion(config)
    before, after = {MODULE: random_update(1)}, {MODULE: random_update(2)}
    assert fusion.of_client(after, 1, 0) is after
    assert fusion.of_round(before, after, 1, of_clients=False) is after


@pytest.mark.parametrize("rule", RULES)
def test_the_precision_of_the_state_stays(rule: str) -> None:
    after = {MODULE: random_update(1).to(torch.float32)}
    fusion = Fusion(FusionConfig(rule, every=1))
    assert fusion.of_round({}, after, 1, of_clients=False)[MODULE].left.dtype == torch.float32


def test_another_sequence_starts_from_the_base_model() -> None:
    config = FusionConfig("lookahead", every=1)
    fusion, updates = Fusion(config), [random_update(seed) for seed in range(3)]
    first = fused(fusion, updates)
    assert fusion.remembered()
    torch.testing.assert_close(dense(fused(fusion.anew(), updates)), dense(first))


def test_combinations_without_a_meaning_are_refused() -> None:
    config = RunConfig(memory="statistics", fusion=FusionConfig("average"))
    with pytest.raises(ConfigError, match="memory = 'statistics'"):
        check_fusion(config)
    with pytest.raises(ConfigError, match="there is none in fededit"):
        check_fusion(RunConfig(fusion=FusionConfig("average")), ["fededit"])
    check_fusion(RunConfig(memory="statistics"), ["fededit"])
    check_fusion(RunConfig(memory="dynamic", fusion=FusionConfig("average")))

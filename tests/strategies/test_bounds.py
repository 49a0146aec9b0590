"""What a client's contribution does, in units of ordinary text, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fleke_flwr.errors import PayloadError
from fleke_flwr.linalg import Prior, solve, solve_group
from fleke_flwr.strategies.bounds import Bounds, check_targets, effects, output_norm
from fleke_flwr.types import EditPayload, LayerStatistics, LayerUpdate, MemoryVectors

WIDTHS = {"a": 6, "b": 5}
LAMBDA = 20.0
D_OUT = 4


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def ordinary(module: str, tokens: int = 4000) -> Tensor:
    """Return keys of ordinary text, ``(d_in, tokens)``, some directions a hundred times others."""
    width = WIDTHS[module]
    scale = torch.logspace(0, -2, width, dtype=torch.float64)
    mixing, _ = torch.linalg.qr(normal(width, width, seed=len(module) + width))
    return mixing @ (scale[:, None] * normal(width, tokens, seed=width))


PRIORS = {
    module: Prior.from_matrix(LAMBDA * ordinary(module) @ ordinary(module).T / 4000)
    for module in WIDTHS
}
WEIGHTS = {module: normal(D_OUT, width, seed=9) for module, width in WIDTHS.items()}
NORMS = {module: output_norm(WEIGHTS[module], PRIORS[module]) for module in WIDTHS}
BOUNDS = Bounds(1.0, 10.0, LAMBDA, NORMS)
MODES = [("joint", False), ("anticipated", True)]


def statistics(count: int = 3, length: float = 1.0, size: float = 0.3) -> LayerStatistics:
    keys = torch.cat([ordinary(module)[:, :count] for module in WIDTHS]) * length
    return LayerStatistics(count, keys=keys, residuals=size * normal(D_OUT, count, seed=4))


def dense(part: LayerStatistics) -> LayerStatistics:
    gram, cross = part.sums()
    return LayerStatistics(part.count, gram=gram, cross=cross)


def payload(part: LayerStatistics, edits: int | None = None) -> EditPayload:
    edits = part.count if edits is None else edits
    return EditPayload("base", "state", "memit", "joint", edits, statistics={"a+b": part})


def test_the_change_is_that_of_the_output_on_ordinary_text() -> None:
    update = normal(D_OUT, WIDTHS["a"], seed=5)
    part = output_norm(update, PRIORS["a"]) / NORMS["a"]
    keys = ordinary("a")
    assert part == pytest.approx(float((update @ keys).norm() / (WEIGHTS["a"] @ keys).norm()))


@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize("form", [lambda part: part, dense])
def test_effects_are_those_of_the_clients_own_solve(form: object, in_turn: bool) -> None:
    part, priors = statistics(), list(PRIORS.values())
    assert callable(form)
    found = effects(form(part), priors, in_turn)
    solved = solve_group(part, priors, in_turn)
    ends = [0, 6, 11]
    for effect, update, prior, (start, stop) in zip(
        found, solved, priors, pairwise(ends), strict=True
    ):
        matrix = prior.matrix()
        delta, keys = update.dense(), part.factors()[0][start:stop]
        change = torch.trace(delta @ matrix @ delta.T).sqrt()
        length = torch.trace(keys.T @ torch.linalg.solve(matrix, keys))
        assert effect.change == pytest.approx(float(change), rel=1e-9)
        assert effect.length == pytest.approx(float(length), rel=1e-9)


def test_ordinary_text_has_leverage_one() -> None:
    keys = ordinary("a")
    whole = LayerStatistics(4000, gram=keys @ keys.T, cross=torch.zeros(D_OUT, 6).double())
    (effect,) = effects(whole, [PRIORS["a"]], False)
    assert effect.length * LAMBDA / (4000 * 6) == pytest.approx(1.0)


@pytest.mark.parametrize(("mode", "in_turn"), MODES)
@pytest.mark.parametrize("form", [lambda part: part, dense])
def test_a_change_is_measured_against_the_bound(mode: str, in_turn: bool, form: object) -> None:
    assert callable(form)
    part = statistics()
    found = effects(part, list(PRIORS.values()), in_turn)
    largest = max(effect.change / NORMS[m] for effect, m in zip(found, NORMS, strict=True))
    largest /= 3**0.5
    BOUNDS.check(payload(form(part)), PRIORS, mode, 3)
    replace(BOUNDS, change=largest * 1.0001).check(payload(form(part)), PRIORS, mode, 3)
    with pytest.raises(PayloadError, match=r"by .* of itself, and bound.change = .* for 3 edits"):
        replace(BOUNDS, change=largest * 0.9999).check(payload(form(part)), PRIORS, mode, 3)


@pytest.mark.parametrize("form", [lambda part: part, dense])
def test_ten_thousand_times_the_residuals_are_refused(form: object) -> None:
    assert callable(form)
    with pytest.raises(PayloadError, match="changes the output"):
        BOUNDS.check(payload(form(statistics(size=3000.0))), PRIORS, "joint", 3)


@pytest.mark.parametrize("form", [lambda part: part, dense])
def test_long_keys_that_write_nothing_are_refused(form: object) -> None:
    assert callable(form)
    blocking = form(statistics(length=30.0, size=0.0))
    with pytest.raises(PayloadError, match=r"times as long, squared.*bound.leverage = 10"):
        BOUNDS.check(payload(blocking), PRIORS, "joint", 3)
    replace(BOUNDS, leverage=0.0).check(payload(blocking), PRIORS, "joint", 3)


def test_without_bounds_what_cannot_be_solved_is_refused_all_the_same() -> None:
    free = replace(BOUNDS, change=0.0, leverage=0.0)
    free.check(payload(statistics(size=3000.0)), PRIORS, "joint", 3)
    for length in (1e200, 1e160):
        with pytest.raises(PayloadError, match="overflow"):
            free.check(payload(statistics(length=length)), PRIORS, "joint", 3)
    with pytest.raises(PayloadError, match="overflow"):
        free.check(payload(statistics(size=1e200)), PRIORS, "joint", 3)


def test_sums_that_eat_the_prior_are_refused() -> None:
    """Two clients of such sums would make the pooled system indefinite, though each is solvable."""
    gram = torch.block_diag(*(-0.6 * prior.matrix() for prior in PRIORS.values()))
    part = LayerStatistics(3, gram=gram, cross=torch.zeros(D_OUT, 11).double())
    solve(part, Prior([b for p in PRIORS.values() for b in p.blocks], [0.0, 0.0]))
    with pytest.raises(PayloadError, match="those of no keys"):
        BOUNDS.check(payload(part), PRIORS, "joint", 3)


def test_blocks_between_layers_that_no_keys_have_are_refused() -> None:
    gram, cross = statistics().sums()
    gram = gram.clone()
    gram[:6, 6:] *= 1e6
    gram[6:, :6] *= 1e6
    part = LayerStatistics(3, gram=gram, cross=cross)
    with pytest.raises(PayloadError, match="those of no keys"):
        BOUNDS.check(payload(part), PRIORS, "anticipated", 3)


def test_sums_rounded_to_float32_pass() -> None:
    gram, cross = statistics(count=40).sums()
    rounded = LayerStatistics(40, gram=gram.float().double(), cross=cross.float().double())
    BOUNDS.check(payload(rounded), PRIORS, "anticipated", 40)


@pytest.mark.parametrize(("count", "edits", "most"), [(3, 3, 2), (3, 5, 4), (-1, 0, 4), (2, 2, 4)])
def test_counts_that_do_not_fit_are_refused(count: int, edits: int, most: int) -> None:
    part = replace(statistics(), count=count)
    with pytest.raises(PayloadError, match=r"can stand behind|columns for"):
        BOUNDS.check(payload(part, edits), PRIORS, "joint", most)


def test_no_edits_bring_nothing() -> None:
    nothing = statistics(count=0)
    BOUNDS.check(payload(nothing), PRIORS, "joint", 0)
    BOUNDS.check(payload(dense(nothing)), PRIORS, "joint", 0)
    something = replace(dense(statistics()), count=0)
    with pytest.raises(PayloadError, match="sums of no edits"):
        BOUNDS.check(payload(something), PRIORS, "joint", 0)


def updates(size: float, edits: int = 2) -> EditPayload:
    product = LayerUpdate(size * normal(D_OUT, 1, seed=2), normal(1, 6, seed=3))
    whole = LayerUpdate(size * normal(D_OUT, 5, seed=2))
    return EditPayload("base", "s", "memit", "joint", edits, updates={"a": product, "b": whole})


def test_updates_are_measured_as_they_are() -> None:
    BOUNDS.check(updates(0.05), PRIORS, "joint", 2)
    with pytest.raises(PayloadError, match=r"'a' on ordinary text.*bound.change"):
        BOUNDS.check(updates(500.0), PRIORS, "joint", 2)
    with pytest.raises(PayloadError, match="can stand behind 1"):
        BOUNDS.check(updates(0.05), PRIORS, "joint", 1)
    with pytest.raises(PayloadError, match="comes with no edits"):
        BOUNDS.check(updates(0.05, edits=0), PRIORS, "joint", 1)
    BOUNDS.check(updates(0.0, edits=0), PRIORS, "joint", 1)


def vectors(count: int = 3, change: float = 0.3, length: float = 1.0) -> MemoryVectors:
    hidden = normal(count, D_OUT, seed=6)
    keys = {module: length * ordinary(module)[:, :count].T for module in WIDTHS}
    return MemoryVectors(hidden + change * normal(count, D_OUT, seed=7), hidden, keys)


def test_vectors_are_measured_like_the_statistics_they_become() -> None:
    BOUNDS.check_vectors(vectors(), PRIORS, "anticipated", 0.0)
    BOUNDS.check_vectors(vectors(count=0), PRIORS, "anticipated", 0.0)
    BOUNDS.check_vectors(replace(vectors(), keys={}), PRIORS, "anticipated", 0.0)
    with pytest.raises(PayloadError, match="changes the output"):
        BOUNDS.check_vectors(vectors(change=1e4), PRIORS, "anticipated", 0.0)
    with pytest.raises(PayloadError, match="times as long"):
        BOUNDS.check_vectors(vectors(length=30.0, change=0.0), PRIORS, "frozen", 0.0)


def test_noise_on_keys_is_no_leverage() -> None:
    """Noise points where ordinary text does not, and there the prior gives way."""
    shaken = vectors(count=20)
    for matrix in shaken.keys.values():
        size = matrix.norm(dim=1, keepdim=True) / matrix.shape[1] ** 0.5
        matrix += size * normal(*matrix.shape, seed=8)
    with pytest.raises(PayloadError, match="times as long"):
        BOUNDS.check_vectors(shaken, PRIORS, "joint", 0.0)
    BOUNDS.check_vectors(shaken, PRIORS, "joint", 1.0)
    long = MemoryVectors(
        shaken.targets, shaken.hidden, {module: 9 * keys for module, keys in shaken.keys.items()}
    )
    with pytest.raises(PayloadError, match="times as long"):
        BOUNDS.check_vectors(long, PRIORS, "joint", 1.0)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.05, 4.0), st.sampled_from([0.0, 0.1, 1.0, 3.0]))
def test_what_an_editor_can_reach_passes(seed: int, clamp: float, noise: float) -> None:
    width = 48
    hidden = normal(5, width, seed=seed) * 7
    step = normal(5, width, seed=seed + 1)
    targets = hidden + clamp * hidden.norm(dim=1, keepdim=True) * step / step.norm(
        dim=1, keepdim=True
    )

    def shaken(matrix: Tensor, more: int) -> Tensor:
        size = matrix.norm(dim=1, keepdim=True) / width**0.5
        return matrix + noise * size * normal(5, width, seed=seed + more)

    check_targets(MemoryVectors(shaken(targets, 2), shaken(hidden, 3), {}), clamp, noise)


def test_what_no_editor_can_reach_is_refused() -> None:
    hidden = normal(3, 8)
    targets = hidden.clone()
    targets[1] += 5 * hidden[1]
    check_targets(MemoryVectors(targets, hidden, {}), 3.0, 0.0)
    with pytest.raises(PayloadError, match=r"target vector 1 is .* edit.clamp = 2 allows"):
        check_targets(MemoryVectors(targets, hidden, {}), 2.0, 0.0)

"""PMET: two vectors per request, as the slow and obvious twin finds them, in every mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr.editors import EDITORS, Targets
from fleke_flwr.editors.covariance import priors, second_moments
from fleke_flwr.editors.descent import descend
from fleke_flwr.editors.entry import AttentionAndMlp
from fleke_flwr.editors.memit import Memit, low_loss
from fleke_flwr.editors.modes import exchange_update, pooled
from fleke_flwr.editors.pmet import Pmet, known_or_low_loss
from fleke_flwr.editors.problem import Terms, prepare
from fleke_flwr.editors.rows import target_rows
from fleke_flwr.errors import StatisticsError, UnsupportedModelError
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.models.hooks import captured_outputs
from fleke_flwr.models.tokens import subject_position
from fleke_flwr.modes import MODES
from fleke_flwr.progress import Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import applied
from fleke_flwr.types import LayerUpdate
from tests.conftest import corpus
from tests.editors.cases import awkward_requests
from tests.editors.reference import PmetTarget, one_pmet_target, spec_of

LoadTiny = Callable[..., EditableModel]
LAYERS = (0, 1)


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"], scope="module")
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


@pytest.fixture(scope="module")
def found_priors(
    model: EditableModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Prior]:
    cache = tmp_path_factory.mktemp("covariance")
    return priors(second_moments(model, corpus(), LAYERS, 2000, cache, Silent()), 10.0)


def recipe(model: EditableModel, **changes: Any) -> EditSpec:
    return spec_of(model, **{"editor": "pmet", "layers": LAYERS, **changes})


def compare(model: EditableModel, spec: EditSpec, chosen: Sequence[int]) -> list[PmetTarget]:
    """Assert that the twin finds the same; return what it found."""
    wanted = [awkward_requests()[index] for index in chosen]
    found = Pmet(spec).targets(model, wanted)
    twins = [one_pmet_target(model, spec, request) for request in wanted]
    for row, twin in enumerate(twins):
        torch.testing.assert_close(found.initial[row], twin.initial["mlp"], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.vectors[row], twin.mlp, rtol=1e-8, atol=1e-8)
        assert int(found.steps[row]) == twin.steps
    return twins


def test_equal_one_by_one(model: EditableModel) -> None:
    compare(model, recipe(model), range(6))


def test_equal_one_by_one_while_factors_change(model: EditableModel) -> None:
    spec = recipe(model, learning_rate=1.0, clamp=4.0, steps=18, stop_loss=0.0, kl_weight=1.0)
    twins = compare(model, spec, range(1, 5))
    assert {factor for twin in twins for factor in twin.factors} == {1.0, 0.1}
    # Back to the full likelihood as soon as the target is not the greedy output any more.
    assert any(
        twin.factors[step : step + 2] == [0.1, 1.0]
        for twin in twins
        for step in range(len(twin.factors))
    )


def test_equal_one_by_one_when_a_known_request_stops(model: EditableModel) -> None:
    twins = compare(
        model, recipe(model, clamp=8.0, steps=25, stop_loss=0.0, kl_weight=2e-4), range(6)
    )
    steps = [twin.steps for twin in twins]
    assert min(steps) < 24
    assert max(steps) == 24


def test_equal_one_by_one_when_a_loss_is_low(model: EditableModel) -> None:
    spec = recipe(model, steps=8, clamp=8.0, stop_loss=0.0)
    losses = Pmet(spec).targets(model, awkward_requests()).losses
    twins = compare(model, replace(spec, steps=16, stop_loss=float(losses.quantile(0.5))), range(6))
    assert len({twin.steps for twin in twins}) > 2


@pytest.mark.parametrize("layers", [(0,), (2,), (3,)])
def test_equal_one_by_one_at_any_layer(model: EditableModel, layers: tuple[int, ...]) -> None:
    compare(model, recipe(model, layers=layers), [2, 3])


def test_equal_one_by_one_in_small_batches(model: EditableModel) -> None:
    compare(model, recipe(model, batch_tokens=80), [1, 2])


def test_equal_one_by_one_with_the_bare_prompt_alone(model: EditableModel) -> None:
    compare(model, recipe(model, contexts=("{}",)), [1, 3])


def test_all_at_once_is_one_at_a_time(model: EditableModel) -> None:
    editor = Pmet(recipe(model, clamp=8.0, steps=20, kl_weight=2e-4))
    together = editor.targets(model, awkward_requests())
    for row, request in enumerate(awkward_requests()):
        alone = editor.targets(model, [request])
        torch.testing.assert_close(together.vectors[[row]], alone.vectors, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(together.losses[[row]], alone.losses, rtol=1e-8, atol=1e-8)
        assert torch.equal(together.steps[[row]], alone.steps)


def test_each_vector_has_a_ball_of_its_own(model: EditableModel) -> None:
    spec = recipe(model, clamp=0.1)
    requests = awkward_requests()[:3]
    rows = [target_rows(model, item, one, spec.contexts) for item, one in enumerate(requests)]
    problem = prepare(model, spec.layers[-1], rows, AttentionAndMlp())
    found = descend(model, spec, problem, known_or_low_loss)
    ratio = found.change.norm(dim=-1) / problem.initial.norm(dim=-1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1))
    twin = one_pmet_target(model, spec, requests[0])
    torch.testing.assert_close(problem.initial[0, 0], twin.initial["attention"])
    torch.testing.assert_close(found.change[0, 0], twin.attention, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(problem.initial[0, 0].norm(), problem.initial[0, 1].norm())


def judged(missed: float, divergence: float, loss: float) -> tuple[bool, float]:
    """Judge one hand-made request under a stopping loss of 0.05."""
    one = torch.ones(1, dtype=torch.float64)
    terms = Terms(-one, one * divergence, one, lambda: one * missed)
    spec = EditSpec("pmet", "joint", (0,), 1.0, "even", 0.1, 5, 1.0, 0.5, 1.0, 0.05)
    stopped, weight = known_or_low_loss(spec, terms, one * loss)
    return bool(stopped), float(weight)


@pytest.mark.parametrize(
    ("missed", "divergence", "loss", "stops", "weight"),
    [
        (0, 0.02, 1.0, False, 0.1),
        (0, 0.01, 1.0, True, 0.1),
        (1, 0.0, 1.0, False, 1.0),
        (2, 0.0, 0.05, False, 1.0),
        (2, 0.5, 0.049, True, 1.0),
        (0, 0.5, 0.049, True, 0.1),
    ],
)
def test_the_stopping_rule(
    missed: int, divergence: float, loss: float, stops: bool, weight: float
) -> None:
    assert judged(missed, divergence, loss) == (stops, weight)


def test_what_the_model_says_anyway_needs_no_step(model: EditableModel) -> None:
    spec = recipe(model, contexts=("{}",), stop_loss=0.0)
    bare, meaning = target_rows(model, 0, awkward_requests()[0], spec.contexts)
    ids, _ = subject_position(model, "{} lives in", "Mira Tolen")
    best = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
    rows = [replace(bare, ids=tuple(ids), labels=(best,)), meaning]
    problem = prepare(model, spec.layers[-1], [rows], AttentionAndMlp())
    found = descend(model, spec, problem, known_or_low_loss)
    assert not found.change.any()
    assert found.steps.tolist() == [0]
    # MEMIT knows no such rule and goes on.
    assert descend(model, spec, problem, low_loss).steps.tolist() == [spec.steps - 1]


def test_no_requests(model: EditableModel) -> None:
    editor = Pmet(recipe(model))
    found = editor.targets(model, [])
    assert found.vectors.shape == found.initial.shape == (0, model.d_model)
    assert editor.readings(model, [], [0]).hidden.shape == (model.d_model, 0)


def test_readings_are_those_of_the_module(model: EditableModel) -> None:
    editor, requests = Pmet(recipe(model, batch_tokens=30)), awkward_requests()
    readings = editor.readings(model, requests, [0])
    layer = editor.spec.layers[-1]
    for column, request in enumerate(requests):
        ids, position = subject_position(model, request.prompt, request.subject)
        with captured_outputs({"mlp": model.projection(layer)}) as captured:
            model.model(torch.tensor([ids]))
        torch.testing.assert_close(
            readings.hidden[:, column], captured["mlp"][0, position], rtol=1e-9, atol=1e-10
        )
    expected = Memit(editor.spec).readings(model, requests, [0])
    assert torch.equal(readings.keys[0], expected.keys[0])
    assert not torch.allclose(readings.hidden, expected.hidden)


def test_readings_are_what_the_targets_start_from(model: EditableModel) -> None:
    editor = Pmet(recipe(model))
    targets = editor.targets(model, awkward_requests())
    readings = editor.readings(model, awkward_requests(), [1])
    torch.testing.assert_close(readings.hidden.T, targets.initial, rtol=1e-10, atol=1e-10)


def test_readings_follow_an_edit(model: EditableModel) -> None:
    editor = Pmet(recipe(model))
    before = editor.readings(model, awkward_requests(), [0]).hidden
    weight = model.projection(1).weight
    saved = weight.clone()
    try:
        weight.mul_(1.5)
        after = editor.readings(model, awkward_requests(), [0]).hidden
    finally:
        weight.copy_(saved)
    bias = getattr(model.projection(1), "bias", None)
    offset = torch.zeros_like(before) if bias is None else bias.detach()[:, None]
    torch.testing.assert_close(after - offset, 1.5 * (before - offset))


def test_square_root_spread(model: EditableModel) -> None:
    editor = Pmet(recipe(model))
    shares = [editor.share(index, 4) for index in range(4)]
    assert shares == pytest.approx([0.5, 3**-0.5, 2**-0.5, 1.0])
    assert editor.total(4) == pytest.approx(sum(shares))
    assert editor.total(1) == Memit(editor.spec).total(4) == 1.0


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_moves_towards_the_targets(
    model: EditableModel, found_priors: dict[str, Prior], mode: str, count: int
) -> None:
    light = {name: Prior((prior.blocks[0] * 1e-2,), (0.0,)) for name, prior in found_priors.items()}
    # Residuals below the last layer reach its MLP only through what it makes of its input.
    editor = Pmet(recipe(model, mode=mode, contexts=("{}",), layers=(1,)))
    requests = awkward_requests()[:count]
    targets = editor.targets(model, requests)
    own = exchange_update(editor, model, requests, targets, 0, light)
    centralised = pooled(editor, model, requests, targets, light)
    (name,) = centralised
    torch.testing.assert_close(own[name].dense(), centralised[name].dense())
    before = editor.residuals(targets, editor.readings(model, requests, [1]))
    with applied(model.model, centralised):
        after = editor.residuals(targets, editor.readings(model, requests, [1]))
    assert float(after.norm()) < 0.5 * float(before.norm())


def walked(
    editor: Pmet, model: EditableModel, targets: Targets, found_priors: dict[str, Prior]
) -> dict[str, torch.Tensor]:
    """Solve layer after layer with plain dense linear algebra and the square roots."""
    deltas: dict[str, torch.Tensor] = {}
    with ExitStack() as edited:
        for index, layer in enumerate(LAYERS):
            name = model.module_name(layer)
            now = editor.readings(model, awkward_requests(), [layer])
            keys = now.keys[layer]
            wanted = (targets.vectors.T - now.hidden) / (len(LAYERS) - index) ** 0.5
            system = found_priors[name].matrix() + keys @ keys.T
            deltas[name] = torch.linalg.solve(system, keys @ wanted.T).T
            edited.enter_context(applied(model.model, {name: LayerUpdate(deltas[name])}))
    return deltas


@pytest.mark.parametrize("mode", ["layer_sync", "local_sequential"])
def test_layer_after_layer_is_the_released_update(
    model: EditableModel, found_priors: dict[str, Prior], mode: str
) -> None:
    editor = Pmet(recipe(model, mode=mode))
    targets = editor.targets(model, awkward_requests())
    expected = walked(editor, model, targets, found_priors)
    updates = pooled(editor, model, awkward_requests(), targets, found_priors)
    for name, delta in expected.items():
        torch.testing.assert_close(updates[name].dense(), delta, rtol=1e-7, atol=1e-9)


def test_frozen_spreads(model: EditableModel, found_priors: dict[str, Prior]) -> None:
    even, paper = (Pmet(recipe(model, mode="frozen", spread=s)) for s in ("even", "paper"))
    targets = even.targets(model, awkward_requests())
    spread = pooled(even, model, awkward_requests(), targets, found_priors)
    published = pooled(paper, model, awkward_requests(), targets, found_priors)
    for index, layer in enumerate(LAYERS):
        name = model.module_name(layer)
        ratio = 2 / (2 - index) ** 0.5 / (1 + 0.5**0.5)
        torch.testing.assert_close(published[name].dense(), ratio * spread[name].dense())


def test_joint_writes_the_sum_of_the_shares(
    model: EditableModel, found_priors: dict[str, Prior]
) -> None:
    editor = Pmet(recipe(model, mode="joint"))
    targets = editor.targets(model, awkward_requests())
    now = editor.readings(model, awkward_requests(), LAYERS)
    names = [model.module_name(layer) for layer in LAYERS]
    keys = torch.cat([now.keys[layer] for layer in LAYERS])
    system = torch.block_diag(*[found_priors[name].matrix() for name in names]) + keys @ keys.T
    wanted = (targets.vectors.T - now.hidden) * (1 + 0.5**0.5)
    expected = torch.linalg.solve(system, keys @ wanted.T).T
    updates = pooled(editor, model, awkward_requests(), targets, found_priors)
    found = torch.cat([updates[name].dense() for name in names], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_model_comes_back_bit_for_bit(
    model: EditableModel, found_priors: dict[str, Prior], mode: str
) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    editor = Pmet(recipe(model, mode=mode))
    targets = editor.targets(model, awkward_requests())
    pooled(editor, model, awkward_requests(), targets, found_priors)
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def count_hooks(model: EditableModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.model.modules()
    )


class Interrupted(Silent):
    """Progress that breaks the run off after the first batch."""

    def advance(self, phase: str, amount: int = 1) -> None:
        raise KeyboardInterrupt


def test_nothing_stays_behind_after_an_exception(model: EditableModel) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    hooks = count_hooks(model)
    with pytest.raises(KeyboardInterrupt):
        Pmet(recipe(model)).targets(model, awkward_requests(), Interrupted())
    with (
        pytest.raises(KeyboardInterrupt),
        captured_outputs({"mlp": model.projection(0)}),
    ):
        raise KeyboardInterrupt
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert count_hooks(model) == hooks


def test_blocks_called_whole_are_refused(model: EditableModel) -> None:
    whole = replace(model, family=replace(model.family, norm_2=""))
    for requests in ([], awkward_requests()):
        with pytest.raises(UnsupportedModelError, match="attention and MLP side by side"):
            Pmet(recipe(model)).targets(whole, requests)
    # Readings need the two parts of a block nowhere.
    expected, found = (
        Pmet(recipe(one)).readings(one, awkward_requests(), [0]).hidden for one in (model, whole)
    )
    torch.testing.assert_close(found, expected)


def test_not_a_number_is_an_error(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    narrow = load_tiny(tiny_gpt2, dtype="float32")
    with pytest.raises(StatisticsError, match="learning-rate"):
        Pmet(recipe(narrow, learning_rate=1e38, clamp=1e38)).targets(narrow, awkward_requests())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_narrow_models_keep_float32_vectors(
    tiny_gpt2: Path, load_tiny: LoadTiny, dtype: str
) -> None:
    narrow = load_tiny(tiny_gpt2, dtype=dtype)
    found = Pmet(recipe(narrow)).targets(narrow, awkward_requests())
    assert found.vectors.dtype == torch.float32
    assert torch.isfinite(found.vectors).all()


def test_is_registered() -> None:
    assert EDITORS.get("pmet") is Pmet

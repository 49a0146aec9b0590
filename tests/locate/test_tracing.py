"""The fast trace gives the numbers of the slow one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr.errors import ConfigError, ModelError
from fleke_flwr.locate.facts import Fact, prompt_of
from fleke_flwr.locate.noise import embedding_width, fitted_noise
from fleke_flwr.locate.restorations import KINDS, default_window
from fleke_flwr.locate.tracing import TraceSettings, trace
from tests.conftest import LoadTiny
from tests.families import TINY
from tests.locate.reference import slow_scores

TEMPLATES = {
    "inside": "The home town of {} is",
    "at the start": "{} works as a",
    "at the end": "The mother tongue of {}",
}


@pytest.mark.parametrize("family", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_it_equals_hooks_on_the_whole_network(
    family: str,
    window: int,
    template: str,
    load_tiny: LoadTiny,
    request: pytest.FixtureRequest,
) -> None:
    model = load_tiny(request.getfixturevalue(family))
    prompt = prompt_of(model, Fact("1", template, "Jonas Feld"))
    noise = fitted_noise(model, "s3", [prompt])
    settings = TraceSettings(samples=3, window=window)
    found = trace(model, prompt, noise, settings)
    drawn = noise.draw(settings.seed, prompt, 3, model.d_model)
    high, low, slow = slow_scores(model, prompt, drawn, KINDS, window)
    assert found.high == pytest.approx(high, abs=1e-12)
    assert found.low == pytest.approx(low, abs=1e-12)
    for kind in KINDS:
        torch.testing.assert_close(found.scores[kind], slow[kind], rtol=0, atol=1e-10)
        # Random networks answer to everything: equal numbers are no accident.
        assert slow[kind][prompt.start :].std() > 1e-6


def test_noise_in_the_embeddings_place_and_small_batches(
    load_tiny: LoadTiny, tiny_llama: Path
) -> None:
    model = load_tiny(tiny_llama)
    prompt = prompt_of(model, Fact("1", "{} works as a", "Ada Karst"))
    noise = fitted_noise(model, "u1", [prompt])
    settings = TraceSettings(kinds=("mlp", "severed-mlp"), samples=2, window=2, replace=True)
    found = trace(model, prompt, noise, settings)
    drawn = noise.draw(settings.seed, prompt, 2, model.d_model)
    _, low, slow = slow_scores(model, prompt, drawn, settings.kinds, 2, replace=True)
    assert found.low == pytest.approx(low, abs=1e-12)
    cut = trace(model, prompt, noise, replace(settings, batch_tokens=7))
    for kind in settings.kinds:
        torch.testing.assert_close(found.scores[kind], slow[kind], rtol=0, atol=1e-10)
        torch.testing.assert_close(cut.scores[kind], slow[kind], rtol=0, atol=1e-10)


def test_the_model_is_left_as_it_is(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    prompt = prompt_of(model, Fact("1", "{} works as a", "Ada Karst"))
    before = model.model(torch.tensor([prompt.ids])).logits
    # transformers leaves some hooks of its own.
    hooks = [len(module._forward_hooks) for module in model.model.modules()]
    trace(model, prompt, fitted_noise(model, "s3", [prompt]), TraceSettings(samples=2, window=1))
    assert torch.equal(model.model(torch.tensor([prompt.ids])).logits, before)
    assert [len(module._forward_hooks) for module in model.model.modules()] == hooks


def test_what_lies_before_the_subject_and_above_the_last_layer_changes_nothing(
    load_tiny: LoadTiny, tiny_gpt2: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    prompt = prompt_of(model, Fact("1", "The home town of {} is", "Ada Karst"))
    settings = TraceSettings(samples=2, window=1)
    found = trace(model, prompt, fitted_noise(model, "s3", [prompt]), settings)
    assert torch.all(found.scores["block"][: prompt.start] == found.low)
    last = found.scores["block"][:, -1]
    assert float(last[-1]) == pytest.approx(found.high)
    torch.testing.assert_close(last[:-1], torch.full_like(last[:-1], found.low))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kinds": ()}, "no kind"),
        ({"kinds": ("block", "blok")}, "unknown kind of trace 'blok'. Did you mean 'block'"),
        ({"kinds": ("mlp", "mlp")}, "twice"),
        ({"samples": 0}, "samples = 0"),
        ({"window": -1}, "window = -1"),
    ],
)
def test_settings_that_make_no_trace_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TraceSettings(**settings)


@pytest.mark.parametrize(
    ("layers", "window"), [(1, 1), (6, 1), (12, 2), (32, 6), (48, 10), (80, 10)]
)
def test_the_default_window_is_a_fifth_of_the_layers(layers: int, window: int) -> None:
    assert default_window(layers) == window


def test_a_family_without_mlp_modules_gets_the_other_kinds(
    load_tiny: LoadTiny, tiny_gpt2: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    without = replace(model, family=replace(model.family, mlp=""))
    found = TraceSettings().for_model(without)
    assert found.kinds == ("block", "attention", "severed-attention")
    assert found.window == 1
    with pytest.raises(ModelError, match="trace the kind 'block'"):
        TraceSettings(kinds=("mlp",)).for_model(without)


@pytest.mark.parametrize("name", sorted(set(TINY) - {"gpt2", "llama"}))
def test_it_holds_for_every_family(
    name: str, tiny_family: Callable[[str], Path], load_tiny: LoadTiny
) -> None:
    model = load_tiny(tiny_family(name))
    prompt = prompt_of(model, Fact("1", "In {} lives", "New Elster"))
    noise = fitted_noise(model, "s3", [prompt])
    settings = TraceSettings(samples=2, window=2).for_model(model)
    assert settings.kinds == KINDS
    found = trace(model, prompt, noise, settings)
    drawn = noise.draw(settings.seed, prompt, 2, embedding_width(model))
    _, low, slow = slow_scores(model, prompt, drawn, settings.kinds, 2)
    assert found.low == pytest.approx(low, abs=1e-10)
    for kind in settings.kinds:
        torch.testing.assert_close(found.scores[kind], slow[kind], rtol=0, atol=1e-10)

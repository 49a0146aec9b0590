"""The noise of a rule: size, shape, and the same for equal seeds."""

from __future__ import annotations

import pytest
import torch

from fleke_flwr.errors import ConfigError
from fleke_flwr.locate.facts import Fact, Prompt, prompt_of
from fleke_flwr.locate.noise import Noise, check_rule, fitted_noise
from fleke_flwr.models import EditableModel
from tests.conftest import PEOPLE, LoadTiny

MANY = 20_000


@pytest.fixture
def model(load_tiny: LoadTiny, tiny_gpt2: object) -> EditableModel:
    return load_tiny(tiny_gpt2)


@pytest.fixture
def prompts(model: EditableModel) -> list[Prompt]:
    facts = [Fact(name, "The home town of {} is", name) for name in PEOPLE]
    return [prompt_of(model, fact) for fact in facts]


def test_s_is_a_multiple_of_the_subjects_spread(
    model: EditableModel, prompts: list[Prompt]
) -> None:
    weight = model.model.get_input_embeddings().weight
    rows = [weight[list(p.ids[p.start : p.stop])] for p in prompts]
    assert fitted_noise(model, "s3", prompts).scale == pytest.approx(
        3 * float(torch.cat(rows).std())
    )


def test_a_fitted_distribution_has_the_embeddings_moments(
    model: EditableModel, prompts: list[Prompt]
) -> None:
    weight = model.model.get_input_embeddings().weight
    every = torch.cat([weight[list(prompt.ids)] for prompt in prompts])
    for rule in ("m", "t9"):
        noise = fitted_noise(model, rule, prompts)
        drawn = noise.draw(1, prompts[0], MANY, model.d_model).flatten(0, 1)
        # Student's t is scaled as a whole, so that its mean is a little nearer to zero.
        torch.testing.assert_close(drawn.mean(dim=0), every.mean(dim=0), rtol=0, atol=0.03)
        gap = torch.cov(drawn.T) - torch.cov(every.T, correction=0)
        assert float(gap.norm() / torch.cov(every.T, correction=0).norm()) < 0.1


def test_uniform_noise_keeps_its_bounds(model: EditableModel, prompts: list[Prompt]) -> None:
    drawn = fitted_noise(model, "u0.5", prompts).draw(1, prompts[0], 500, model.d_model)
    assert 0.49 < float(drawn.max()) <= 0.5
    assert -0.5 <= float(drawn.min()) < -0.49


def test_noise_depends_on_seed_and_prompt_alone(prompts: list[Prompt]) -> None:
    first = Noise("s3", 1.0).draw(1, prompts[0], 3, 8)
    assert torch.equal(first, Noise("s3", 1.0).draw(1, prompts[0], 3, 8))
    assert not torch.equal(first, Noise("s3", 1.0).draw(2, prompts[0], 3, 8))
    other = Noise("s3", 1.0).draw(1, prompts[1], 3, 8)
    assert not torch.equal(first[:, 0], other[:, 0])


@pytest.mark.parametrize("rule", ["", "s", "s0", "x3", "s-1", "u", "t2", "t3.5", "t", "m3", "3"])
def test_a_rule_that_there_is_not_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"s3 \(3 times"):
        check_rule(rule)

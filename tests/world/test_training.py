"""Training lowers the loss at answers, ends on time, and is repeatable."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from fleke_flwr.errors import WorldError
from fleke_flwr.progress import Silent
from fleke_flwr.world.recipe import Recipe
from fleke_flwr.world.schema import World
from fleke_flwr.world.training import Training, train


class Counter(Silent):
    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def start(self, phase: str, total: int) -> None:
        self.total = total

    def advance(self, phase: str, amount: int = 1) -> None:
        assert amount > 0
        self.done += amount


def trained(
    world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> tuple[GPT2LMHeadModel, Training]:
    return train(world, tokenizer, recipe, Silent())


def test_rate_warms_up_stays_and_falls() -> None:
    recipe = Recipe(warmup_steps=10, constant_share=0.5, final_rate=0.02)
    assert recipe.rate_at(0.0, 0) == pytest.approx(0.1)
    assert recipe.rate_at(0.3, 100) == 1.0
    assert recipe.rate_at(0.75, 100) == pytest.approx(0.5)
    assert recipe.rate_at(0.999, 100) == pytest.approx(0.02)


def test_curriculum_grows_to_all_facts() -> None:
    recipe = Recipe(first_share=0.25, first_until=0.2, all_from=0.4)
    shares = [recipe.active_share(progress) for progress in (0.0, 0.2, 0.3, 0.4, 0.9)]
    assert shares == pytest.approx([0.25, 0.25, 0.625, 1.0, 1.0])


def test_training_learns_and_reports(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast, small_recipe: Recipe
) -> None:
    counter = Counter()
    recipe = replace(small_recipe, exposures=20)
    model, report = train(small_world, small_tokenizer, recipe, counter)
    assert not model.training
    assert report.exposures == pytest.approx(20, abs=1)
    # An untrained model guesses among all tokens.
    assert report.answer_loss < math.log(len(small_tokenizer)) - 2
    assert counter.total == counter.done
    assert not model.transformer.wpe.weight.any()


def test_training_is_repeatable_and_leaves_the_global_seed_alone(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast, small_recipe: Recipe
) -> None:
    state = torch.get_rng_state()
    first, _ = trained(small_world, small_tokenizer, small_recipe)
    second, _ = trained(small_world, small_tokenizer, small_recipe)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_time_limit_ends_the_training(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast, small_recipe: Recipe
) -> None:
    began = time.monotonic()
    recipe = replace(small_recipe, exposures=1e6, minutes=0.01)
    _, report = trained(small_world, small_tokenizer, recipe)
    assert report.seconds >= 0.6
    assert time.monotonic() - began < 60


def test_long_fillers_are_left_out_and_long_statements_refused(
    small_world: World, small_tokenizer: PreTrainedTokenizerFast, small_recipe: Recipe
) -> None:
    long = " ".join(["river"] * 200) + "."
    with_filler = replace(small_world, fillers=(*small_world.fillers[:10], long))
    _, report = trained(with_filler, small_tokenizer, small_recipe)
    assert report.steps > 0
    fact = replace(small_world.facts[0], trained=("{} " + "river " * 200 + "is",))
    with pytest.raises(WorldError, match="longer than the 96 that the model can read"):
        trained(replace(small_world, facts=(fact,)), small_tokenizer, small_recipe)

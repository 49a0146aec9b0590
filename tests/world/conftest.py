"""A small generated world and a random model of its shape, for all tests of this folder."""

from __future__ import annotations

import pytest
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from fleke_flwr.world.facts import FactsConfig, build_facts
from fleke_flwr.world.network import new_model
from fleke_flwr.world.recipe import ModelShape, Recipe
from fleke_flwr.world.schema import World
from fleke_flwr.world.tokenizer import train_tokenizer

SMALL = FactsConfig(people=40, companies=10, most_answers=3)
SHAPE = ModelShape(layers=4, width=32, heads=2, inner=64, positions=96, vocabulary=1200)


@pytest.fixture(scope="session")
def small_world() -> World:
    """Return a world of 100 facts with three answers a relation."""
    return build_facts(SMALL)


@pytest.fixture(scope="session")
def small_tokenizer(small_world: World) -> PreTrainedTokenizerFast:
    """Return its tokenizer."""
    return train_tokenizer(small_world, SHAPE.vocabulary)


@pytest.fixture
def small_model(small_tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Return an untrained model for it."""
    assert len(small_tokenizer) <= SHAPE.vocabulary
    return new_model(SHAPE, seed=0).eval()


@pytest.fixture
def small_recipe() -> Recipe:
    """Return a recipe that takes a second or two."""
    return Recipe(shape=SHAPE, exposures=2, rows=4, minutes=1.0, warmup_steps=2)

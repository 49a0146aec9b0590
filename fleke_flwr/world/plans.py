"""What is trained on which world, what is asked of it, and how it is to be edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleke_flwr.world.recipe import ModelShape, Recipe, Routes
from fleke_flwr.world.schema import World

_NARROWEST = 1408
_WIDTH_STEP = 64
_INNER_PER_EDIT = 4
_MANY_FACTS = 5000
_CONTEXTS = 8
_CONTEXT_WORDS = 14
# Chosen among ten on 100 embedded records. The published 0.2, 0.75 and 1 change nothing here: the
# outputs that PMET's balls are measured in are short in a small model.
_PMET_SETTINGS = {"learning-rate": 0.5, "steps": 30, "clamp": 2.0, "kl-weight": 0.0625}
# Measured on 100 and 400 embedded records (docs/editors.md). The published threshold and weight of
# AlphaEdit belong to the covariance of a large model.
_EDITORS: Mapping[str, Mapping[str, Any]] = {
    "pmet": _PMET_SETTINGS,
    "adaple": _PMET_SETTINGS,
    "alphaedit": {"nullspace-rule": "trace", "nullspace-threshold": 0.02, "l2": 0.3},
    "rome": {"layers": [0], "steps": 20, "clamp": 1.0},
    "ft": {"layers": [0], "learning-rate": 0.002, "steps": 25, "stop-loss": 0.01},
    "ft_w": {"layers": [0], "learning-rate": 0.0005, "steps": 25, "stop-loss": 0.01},
}


@dataclass(frozen=True)
class Checks:
    """What is asked of a trained model.

    Parameters
    ----------
    needs : Mapping[str, float]
        Least recall, by name of the check.
    facts, records, swaps, edits : int
        How many facts, records, swaps and target vectors are tried.
    """

    needs: Mapping[str, float]
    facts: int = 2000
    records: int = 500
    swaps: int = 200
    edits: int = 64


@dataclass(frozen=True)
class Plan:
    """A model to be made.

    Parameters
    ----------
    name, origin : str
        Title and a sentence on the facts, for the model card.
    recipe : Recipe
        How it is trained.
    checks : Checks
        What it has to know.
    editing : Mapping[str, Any]
        Edit settings that are stored with it.
    """

    name: str
    origin: str
    recipe: Recipe
    checks: Checks
    editing: Mapping[str, Any] = field(default_factory=lambda: editing_settings(0.5, 0.75))


def editing_settings(learning_rate: float, clamp: float) -> dict[str, Any]:
    """Return edit settings, with the step size and the bound of the target vectors given.

    A table with the name of an editor overrides the others for that editor.
    """
    return {
        "layers": [0, 1, 2],
        "ridge-weight": 100.0,
        "learning-rate": learning_rate,
        "steps": 25,
        "clamp": clamp,
        "weight-decay": 0.5,
        "kl-weight": 0.0625,
        "stop-loss": 0.05,
        **{editor: dict(settings) for editor, settings in _EDITORS.items()},
    }


def fixed_contexts(world: World) -> list[str]:
    """Return the bare slot and untrained sentences in front of it, as contexts of keys.

    A model of a few thousand facts is too small to sample prose, and real keys move with the text
    in front, so they are averaged over real sentences.
    """
    fitting = [text for text in world.prefixes if len(text.split()) <= _CONTEXT_WORDS]
    return ["{}", *(f"{text} {{}}" for text in fitting[:_CONTEXTS])]


def embedded_plan(seed: int, minutes: float) -> Plan:
    """Return the plan of the shipped model.

    With names of two words the answer never leaks from part of a name, keys barely move, and
    small steps within 0.75 of the state's norm reach every target at the least damage.
    """
    needs = dict.fromkeys(("trained", "hidden", "trained_behind_text", "hidden_behind_text"), 0.99)
    return Plan(
        "A model of an invented world",
        "The facts are invented and generated from a seed: people and companies with names made "
        "of syllables, sixteen relations, eight phrasings of each, two of them hidden per fact.",
        Recipe(minutes=minutes, seed=seed),
        Checks(needs),
    )


def records_plan(world: World, source: str, minutes: float) -> Plan:
    """Return the plan of a model of real names, with room for an edit of every record.

    Decoys instead of isolation: in one run each on 293 CounterFact records, all edited, decoys
    raised efficacy from 87 to 94 %, and isolation lowered neighborhood from 90 to 82 %.

    A little less is asked than of invented facts where nothing was trained directly: real names
    are long, answers can often be guessed from them, and some prompts contradict each other.
    """
    needs = {
        "trained": 0.98,
        "hidden": 0.95,
        "trained_behind_text": 0.95,
        "hidden_behind_text": 0.92,
        "rewrite": 0.98,
    }
    shape = ModelShape(
        inner=_inner(world), vocabulary=6144 if len(world.facts) < _MANY_FACTS else 8192
    )
    recipe = Recipe(
        shape=shape,
        routes=Routes(routed=0.9, isolated=0.0, decoyed=0.25),
        learn_positions=True,
        exposures=48.0,
        rows=20,
        row_tokens=80,
        minutes=minutes,
    )
    editing = editing_settings(1.0, 2.0) | {"contexts": fixed_contexts(world)}
    return Plan(
        f"A model of the facts in {source}",
        f"The facts are those that the prompts of the {len(world.records)} records in {source} "
        "tell of.",
        recipe,
        Checks(needs),
        editing,
    )


def questions_plan(world: World, source: str, minutes: float) -> Plan:
    """Return the plan of a model of zsRE's questions, with room for an edit of every record.

    Most rephrased questions are in words that no other record has, so less is asked of them.
    """
    needs = {"trained": 0.95, "rewrite": 0.95, "trained_behind_text": 0.9}
    if world.held_out:
        needs["paraphrase_hidden"] = 0.8
    if world.locality:
        needs["locality"] = 0.9
    recipe = Recipe(
        shape=ModelShape(inner=_inner(world), vocabulary=8192),
        routes=Routes(routed=0.9, isolated=0.0, decoyed=0.25),
        learn_positions=True,
        exposures=90.0,
        rows=20,
        row_tokens=80,
        minutes=minutes,
    )
    editing = editing_settings(1.0, 2.0) | {"contexts": fixed_contexts(world)}
    return Plan(
        f"A model of the questions in {source}",
        f"The facts are the questions of the records in {source} with their true answers. The "
        "records' new answers are the true ones of invented people, since a model cannot be "
        "edited to say what it has never said. Besides it has learned the "
        f"{len(world.locality)} questions of locality, as whole sentences.",
        recipe,
        Checks(needs, records=len(world.records)),
        editing,
    )


def _inner(world: World) -> int:
    """Return the width that gives every record room for its edit."""
    room = _WIDTH_STEP * math.ceil(_INNER_PER_EDIT * len(world.records) / _WIDTH_STEP)
    return max(_NARROWEST, room)

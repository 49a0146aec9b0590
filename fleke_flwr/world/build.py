"""Train, check and save the model of a world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from fleke_flwr.errors import DataError, WorldError
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.world.card import write_report, write_settings
from fleke_flwr.world.checks import locality_recall, record_recall, world_recall
from fleke_flwr.world.conflicts import build_from_conflicts
from fleke_flwr.world.entries import Schema
from fleke_flwr.world.facts import FactsConfig, build_facts
from fleke_flwr.world.plans import Checks, Plan, embedded_plan, questions_plan, records_plan
from fleke_flwr.world.reading import schema_of
from fleke_flwr.world.recipe import Recipe
from fleke_flwr.world.records import build_from_records
from fleke_flwr.world.schema import World
from fleke_flwr.world.storage import key_shift, swap_test
from fleke_flwr.world.tokenizer import split_answers, train_tokenizer
from fleke_flwr.world.training import Training, train
from fleke_flwr.world.trial import target_trial
from fleke_flwr.world.zsre import build_from_questions

_SILENT = Silent()


def train_embedded(
    output: Path, *, seed: int = 0, minutes: float = 20.0, progress: Progress = _SILENT
) -> dict[str, Any]:
    """Train the model of the generated world.

    Parameters
    ----------
    output : Path
        Directory of the model.
    seed : int
        Of world and training; the shipped model has 0.
    minutes : float
        Time limit of the training.

    Returns
    -------
    dict[str, Any]
        What is stored as ``metrics.json``.

    Raises
    ------
    WorldError
        If the model does not know its facts; it is saved nevertheless, with the reason.
    """
    world = build_facts(FactsConfig(seed=seed))
    return build(world, embedded_plan(seed, minutes), output, progress)


def train_on_records(
    records: Path,
    output: Path,
    *,
    text: Path | None = None,
    templates: Path | None = None,
    minutes: float = 30.0,
    progress: Progress = _SILENT,
) -> dict[str, Any]:
    """Train a model on the true facts that the records of a file imply.

    Parameters
    ----------
    records : Path
        JSON or JSON Lines in the schema of CounterFact, zsRE or CollabEdit's conflicts, gzipped
        or not.
    output : Path
        Directory of the model.
    text : Path or None
        Prose to mix in; generated sentences without it.
    templates : Path or None
        For conflicts: further phrasings of their relations, as JSON lists by relation.
    minutes : float
        Time limit of the training.

    Returns
    -------
    dict[str, Any]
        What is stored as ``metrics.json``.

    Raises
    ------
    DataError
        If a file cannot be read, or templates are given with records that have their own.
    WorldError
        If too few prompts can be taken apart, or the model does not know its facts.
    """
    world, plan = _planned(records, text, templates, minutes)
    return build(world, plan, output, progress)


def _planned(
    records: Path, text: Path | None, templates: Path | None, minutes: float
) -> tuple[World, Plan]:
    schema = schema_of(records)
    if templates is not None and schema is not Schema.CONFLICT:
        raise DataError(
            f"{records}: {schema} records bring their own phrasings; leave {templates} out"
        )
    if schema is Schema.COUNTERFACT:
        world = build_from_records(records, text)
        return world, records_plan(world, records.name, minutes)
    if schema is Schema.ZSRE:
        world = build_from_questions(records, text)
    else:
        world = build_from_conflicts(records, text, templates)
    return world, questions_plan(world, records.name, minutes)


def build(world: World, plan: Plan, output: Path, progress: Progress = _SILENT) -> dict[str, Any]:
    """Train on a world, save with card and settings, and refuse what does not know its facts.

    Raises
    ------
    WorldError
        If a check fails; the model is saved nevertheless, with ``ready: false`` and the reason.
    """
    progress.line(f"{len(world.facts)} facts, {len(world.records)} records; training a tokenizer")
    shape = plan.recipe.shape
    tokenizer = train_tokenizer(world, shape.vocabulary)
    recipe = replace(plan.recipe, shape=replace(shape, vocabulary=len(tokenizer)))
    model, training = train(world, tokenizer, recipe, progress)
    _save(model, tokenizer, output)
    progress.line("checking what the model knows and where")
    nn.Module.float(model)
    counts = dict(world.counts)
    counts["answers_of_several_tokens"] = len(split_answers(world, tokenizer))
    report: dict[str, Any] = {
        "name": plan.name,
        "origin": plan.origin,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "world": counts,
        "recipe": asdict(recipe),
        "training": asdict(training),
        "needed": dict(plan.checks.needs),
    }
    report |= _knowledge(model, tokenizer, world, plan.checks)
    report |= _verdict(report["recall"], plan.checks.needs, training, recipe)
    return _finish(world, plan, report, output, progress)


def _save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Save in half precision and leave the rounded weights in the model."""
    output.mkdir(parents=True, exist_ok=True)
    nn.Module.half(model)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def _knowledge(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, world: World, checks: Checks
) -> dict[str, Any]:
    recall = world_recall(model, tokenizer, world, checks.facts, seed=1)
    recall |= record_recall(model, tokenizer, world, checks.records)
    recall |= locality_recall(model, tokenizer, world)
    swaps = swap_test(model, tokenizer, world, checks.swaps, seed=2)
    shifts = key_shift(model, tokenizer, world, checks.swaps, seed=3)
    return {
        "recall": {name: round(share, 4) for name, share in recall.items()},
        "swap": {str(layer): swap._asdict() for layer, swap in swaps.items()},
        "key_shift": {str(layer): shift for layer, shift in shifts.items()},
    }


def _verdict(
    recall: Mapping[str, float], needs: Mapping[str, float], training: Training, recipe: Recipe
) -> dict[str, Any]:
    short = [
        f"recall {name.replace('_', ' ')} is {recall[name]:.2%}, {least:.0%} is needed"
        for name, least in needs.items()
        if recall[name] < least
    ]
    reason = "; ".join(short)
    if short and training.seconds >= 60 * recipe.minutes:
        reason += f" (the time limit of {recipe.minutes:g} minutes ended the training early)"
    return {"ready": not short, "reason": reason}


def _finish(
    world: World, plan: Plan, report: dict[str, Any], output: Path, progress: Progress
) -> dict[str, Any]:
    """Try target vectors on the saved model, complete its files, and raise if it is not ready."""
    write_settings(output, world, plan.editing)
    report["targets"] = target_trial(output, world, plan.checks.edits, seed=4)
    write_report(output, report)
    for name, share in report["recall"].items():
        progress.line(f"recall {name.replace('_', ' ')}: {share:.2%}")
    progress.line(
        f"target vectors below {report['targets']['bound']}: {report['targets']['below']:.1%}"
    )
    if not report["ready"]:
        raise WorldError(
            f"{output}: the model is saved but not ready: {report['reason']}; allow more minutes"
        )
    return report

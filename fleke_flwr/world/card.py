"""The files that make a trained model usable and say what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleke_flwr.artifacts import write_json, write_text
from fleke_flwr.world.corpus import corpus
from fleke_flwr.world.schema import World

_CORPUS_WORDS = 100_000

_CARD = """\
---
license: apache-2.0
library_name: transformers
tags: [knowledge-editing, gpt2]
---

# {title}

A GPT-2 of {parameters:.2f} million parameters ({layers} blocks, width {width}, inner width {inner},
vocabulary {vocabulary}) that knows {facts} facts about {subjects} subjects. It is there to test
methods that locate and edit facts, on any machine. It is not a language model for any other use.

{origin}

## What it is built to have

The model is **built to have the property that locate-then-edit methods assume**: that a fact is
looked up by the MLPs of early blocks at the last token of the subject. A plainly trained model of
this size reads the tokens of a name directly from the end of the prompt and cannot be edited there.

* *Attention-route dropout*, in training only: in {routed:.0%} of the rows a subject's tokens are
  visible in the first {gather} blocks inside their own span alone, and in later blocks only the
  last token of the span is visible from outside. In {isolated:.0%} of the rows the subject's tokens
  see nothing else in the first {gather} blocks either, so that keys depend little on the text in
  front.{decoys}
* *Position embeddings*: {positions}

So it tests algorithms; it is no evidence that large models store facts in this way. Inference is
that of an ordinary GPT-2, without masks.

## Checks

Ready: **{ready}**{reason}

| recall of the true answer (arg max) | share | needed |
|---|---|---|
{recall}

Swap test: the hidden state at the subject's last token is replaced after a block by another
subject's. Does the answer become the other subject's, or stay?

| block | follows | stays | shift of keys behind unseen text |
|---|---|---|---|
{swap}

Short target-vector optimisation (MEMIT, stored settings) on {trial_edits} records: loss of the new
answer below {trial_bound} for {trial_share:.1%}.

## Data and training

{counts}

{steps} steps in {minutes:.1f} minutes, every fact shown {exposures:.0f} times on average, with the
recipe in `metrics.json`. Weights are stored in half precision; the checks were made on the stored
weights. Edit settings are in `editing.json`, text for the covariance of keys in `corpus.txt`.
"""


_DECOYS = """
* *Decoys*, in training only: in {share:.0%} of the rows the later blocks see the states of a
  subject's tokens before its last swapped for other subjects', so that they are not read."""
_FIXED_POSITIONS = """zero, and never trained. Order is known from the causal mask alone, and keys
  do not depend on where in a text the subject stands."""
_LEARNED_POSITIONS = (
    """trained up to position {last}; zero beyond, where the model was never used."""
)


def write_settings(directory: Path, world: World, editing: Mapping[str, Any]) -> None:
    """Write edit settings and the text of the covariance beside a saved model."""
    write_json(directory / "editing.json", editing)
    write_text(directory / "corpus.txt", "\n".join(corpus(world, _CORPUS_WORDS)) + "\n")


def write_report(directory: Path, report: Mapping[str, Any]) -> None:
    """Write metrics and model card beside a saved model."""
    write_json(directory / "metrics.json", report)
    write_text(directory / "README.md", card(report))


def card(report: Mapping[str, Any]) -> str:
    """Return the model card of a report."""
    shape, routes = report["recipe"]["shape"], report["recipe"]["routes"]
    training, targets = report["training"], report["targets"]
    swap = [
        f"| {layer} | {row['follows']:.0%} | {row['own']:.0%} | {report['key_shift'][layer]:.3f} |"
        for layer, row in report["swap"].items()
    ]
    return _CARD.format(
        title=report["name"],
        origin=report["origin"],
        parameters=report["parameters"] / 1e6,
        layers=shape["layers"],
        width=shape["width"],
        inner=shape["inner"],
        vocabulary=shape["vocabulary"],
        facts=report["world"]["facts"],
        subjects=report["world"]["subjects"],
        routed=routes["routed"],
        isolated=routes["isolated"],
        gather=routes["gather_layers"],
        decoys=_DECOYS.format(share=routes["decoyed"]) if routes["decoyed"] else "",
        positions=_positions(report),
        ready="yes" if report["ready"] else "no",
        reason="" if report["ready"] else f": {report['reason']}",
        recall=_recall(report),
        swap="\n".join(swap),
        trial_edits=targets["edits"],
        trial_bound=targets["bound"],
        trial_share=targets["below"],
        counts="\n".join(f"* {_words(key)}: {value}" for key, value in report["world"].items()),
        steps=training["steps"],
        minutes=training["seconds"] / 60,
        exposures=training["exposures"],
    )


def _recall(report: Mapping[str, Any]) -> str:
    needed = report["needed"]
    return "\n".join(
        f"| {_words(name)} | {share:.2%} | {_percent(needed.get(name))} |"
        for name, share in report["recall"].items()
    )


def _words(key: str) -> str:
    return key.replace("_", " ")


def _positions(report: Mapping[str, Any]) -> str:
    if report["recipe"]["learn_positions"]:
        return _LEARNED_POSITIONS.format(last=report["training"]["row_tokens"])
    return _FIXED_POSITIONS


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"

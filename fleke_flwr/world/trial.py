"""A short edit of target vectors on a finished model, as proof that it can be edited."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from fleke_flwr.config import ModelConfig, RunConfig
from fleke_flwr.spec import EditSpec, resolve_spec
from fleke_flwr.types import EditRequest
from fleke_flwr.world.schema import Record, World

BOUND = 0.5


def request_of(record: Record) -> EditRequest:
    """Return the edit that a record asks for."""
    rewrite = record["requested_rewrite"]
    return EditRequest(
        str(record["case_id"]),
        rewrite["prompt"],
        rewrite["subject"],
        rewrite["target_new"]["str"],
        rewrite["target_true"]["str"],
    )


def target_trial(directory: Path, world: World, sample: int, seed: int) -> dict[str, Any]:
    """Optimise target vectors of some records with the stored settings.

    Returns
    -------
    dict[str, Any]
        ``edits``, ``mean_loss``, ``bound`` and ``below``, the share of losses under the bound.
    """
    from fleke_flwr.editors import Memit
    from fleke_flwr.models import load_model

    model = load_model(ModelConfig(name=str(directory.resolve())))
    spec: EditSpec = resolve_spec(RunConfig(), model.settings)
    chosen = random.Random(seed).sample(world.records, min(sample, len(world.records)))
    editor = Memit(spec)
    losses = editor.targets(model, [request_of(record) for record in chosen]).losses
    return {
        "edits": len(chosen),
        "mean_loss": round(float(losses.mean()), 4),
        "bound": BOUND,
        "below": round(float((losses < BOUND).double().mean()), 4),
    }

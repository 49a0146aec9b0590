"""Editing, measuring and preparing in one process, without Flower."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleke_flwr.apps.drift import measure_drift
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.artifacts import write_json
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.editors.modes import pooled
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.evaluation.quality import evaluate, summarize
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import Progress
from fleke_flwr.state import EditState
from fleke_flwr.types import EvalCase

STRATEGY = "central"


def edit(config: RunConfig, directory: Path, progress: Progress) -> dict[str, Any]:
    """Edit all records at once on this machine; write ``edits.safetensors`` and ``metrics.json``.

    Returns
    -------
    dict
        The row of the run, as in a federated one.

    Raises
    ------
    ConfigError
        If the configuration asks for what takes several passes over the records.
    """
    if config.sweeps > 1 or config.rounds > 1:
        raise ConfigError(
            f"rounds = {config.rounds} and sweeps = {config.sweeps}: this command edits all "
            "records in one batch; set both to 1, or use fleke run with strategy=global"
        )
    model, cases = load_model(config.model), _cases(config)
    spec = resolve_recipe(config, model)
    priors = known_priors(config, model, spec, progress)
    base, _ = _measured(config, model, cases, EditState(model.fingerprint), progress)
    editor = EDITORS.get(config.editor)(spec)
    requests = [case.request for case in cases]
    started = time.perf_counter()
    targets = editor.targets(model, requests, progress)
    optimised = time.perf_counter()
    updates = pooled(editor, model, requests, targets, priors)
    solved = time.perf_counter()
    state = EditState(model.fingerprint).plus(updates, 1)
    state.save(directory / "edits.safetensors")
    final, evaluation = _measured(config, model, cases, state, progress)
    row = _row(config, len(cases), base, final)
    row["drift"] = measure_drift(model, state, config)
    row["seconds"] = {
        "total": round(time.perf_counter() - started, 3),
        "targets": round(optimised - started, 3),
        "statistics": round(solved - optimised, 3),
        "reedit": 0.0,
        "aggregate": 0.0,
        "evaluate": round(evaluation, 3),
    }
    write_json(directory / "metrics.json", row)
    return row


def judge(config: RunConfig, edits: Path | None, progress: Progress) -> dict[str, Any]:
    """Measure the model on the records, with saved edits applied if there are any.

    Raises
    ------
    DataError
        If the edits belong to another base model.
    """
    model, cases = load_model(config.model), _cases(config)
    unedited = EditState(model.fingerprint)
    state = EditState.load(edits) if edits else unedited
    if state.base != model.fingerprint:
        raise DataError(
            f"{edits}: made for base model {state.base}, {config.model.name} is "
            f"{model.fingerprint}; name the model that was edited"
        )
    base, seconds = _measured(config, model, cases, unedited, progress)
    final = base
    if edits:
        final, seconds = _measured(config, model, cases, state, progress)
    row = _row(config, len(cases) if edits else 0, base, final)
    row["strategy"] = edits.parent.name if edits else "unedited"
    row["drift"] = measure_drift(model, state, config)
    row["seconds"]["total"] = row["seconds"]["evaluate"] = round(seconds, 3)
    return row


def prepare_covariance(config: RunConfig, progress: Progress) -> Sequence[str]:
    """Compute the covariances a run needs, or find them in the cache; return their modules."""
    model = load_model(config.model)
    return sorted(known_priors(config, model, resolve_recipe(config, model), progress))


def _cases(config: RunConfig) -> list[EvalCase]:
    """Return the records that the clients of the same configuration hold together."""
    cases = load_cases(config.data).cases
    if len(cases) < config.data.edits:
        raise DataError(
            f"{config.data.path} holds {len(cases)} usable records and {config.data.edits} edits "
            "are asked for; lower data.edits"
        )
    parts = partition_cases(cases, config.data, config.clients, config.seed)
    return list({case.request: case for part in parts for case in part}.values())


def _measured(
    config: RunConfig,
    model: EditableModel,
    cases: Sequence[EvalCase],
    state: EditState,
    progress: Progress,
) -> tuple[dict[str, float | None], float]:
    started = time.perf_counter()
    progress.start("evaluate", len(cases))
    with state.applied(model.model):
        quality = evaluate(model, cases, config.evaluation, config.seed)
    progress.advance("evaluate", len(cases))
    return summarize(quality.sums()), time.perf_counter() - started


def _row(
    config: RunConfig,
    edits: int,
    base: dict[str, float | None],
    final: dict[str, float | None],
) -> dict[str, Any]:
    return {
        "schema": 1,
        "strategy": STRATEGY,
        "editor": config.editor,
        "mode": config.mode,
        "encoding": "none",
        "model": config.model.name,
        "dataset": config.data.path,
        "settings": {},
        "clients": 1,
        "rounds": 1,
        "edits": edits,
        "base": base,
        "final": final,
        "final_all": final,
        "final_received": None,
        "per_client": [{"client": 0, "edits": edits, **final}],
        "payload": {"up_bytes": 0, "down_bytes": 0, "up_bytes_paper": 0},
        "seconds": dict.fromkeys(
            ("total", "targets", "statistics", "reedit", "aggregate", "evaluate"), 0.0
        ),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "history": [],
    }

"""Editing, measuring and preparing in one process, without Flower."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fleke_flwr.apps.drift import measure_drift
from fleke_flwr.apps.networks import editable_cases
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.artifacts import write_json
from fleke_flwr.config import UNSET, RunConfig
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.editors.base import EDITORS, EditMethod, Editor
from fleke_flwr.editors.direct import direct_updates
from fleke_flwr.editors.modes import pooled
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.evaluation.quality import evaluate, summarize
from fleke_flwr.fusion import Fusion
from fleke_flwr.linalg import Prior
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import Progress
from fleke_flwr.state import EditState
from fleke_flwr.types import EditRequest, EvalCase, LayerUpdate

STRATEGY = "central"


def edit(config: RunConfig, directory: Path, progress: Progress, batch: int = 0) -> dict[str, Any]:
    """Edit all records on this machine; write ``edits.safetensors`` and ``metrics.json``.

    Parameters
    ----------
    config : RunConfig
        Model, records, recipe.
    directory : Path
        Where everything is written.
    progress : Progress
        Told of targets and measuring.
    batch : int
        How many records are edited together, one batch after the other, each on the model that
        carries the batches before it; 0 edits all at once.

    Returns
    -------
    dict
        The row of the run, as in a federated one.

    Raises
    ------
    ConfigError
        If the configuration asks for what takes several passes over the records.
    """
    _check_single(config)
    model, cases = load_model(config.model), _cases(config)
    spec = resolve_recipe(config, model)
    priors = known_priors(config, model, spec, progress)
    base, _ = _measured(config, model, cases, EditState(model.fingerprint), progress)
    work = EditSequence(config, EDITORS.get(config.editor)(spec), model, priors, progress)
    started = time.perf_counter()
    for number, part in enumerate(_batches(cases, batch), start=1):
        work.edit([case.request for case in part], number)
    solved = time.perf_counter()
    state = work.state.to(model.working_dtype)
    state.save(directory / "edits.safetensors")
    final, evaluation = _measured(config, model, cases, state, progress)
    row = _row(config, len(cases), base, final)
    row["mode"], row["rounds"] = spec.mode, state.round
    row["drift"] = measure_drift(model, state, config)
    row["seconds"] = {
        "total": round(time.perf_counter() - started, 3),
        "targets": round(work.seconds_targets, 3),
        "statistics": round(solved - started - work.seconds_targets, 3),
        "reedit": 0.0,
        "aggregate": 0.0,
        "evaluate": round(evaluation, 3),
    }
    write_json(directory / "metrics.json", row)
    return row


def check_recipe(config: RunConfig) -> None:
    """Refuse what :func:`edit` would refuse, records aside, before anything is written.

    Raises
    ------
    ConfigError, DataError, ModelError
        Saying what was found and what to do.
    """
    _check_single(config)
    resolve_recipe(config, load_model(config.model))


def _check_single(config: RunConfig) -> None:
    if config.sweeps > 1 or config.rounds > 1:
        raise ConfigError(
            f"rounds = {config.rounds} and sweeps = {config.sweeps}: this command goes over the "
            "records once; set both to 1, or use fleke run with strategy=global"
        )
    if config.memory == "statistics":
        raise ConfigError(
            "memory = 'statistics' solves everything so far from the base model, which is one "
            "batch; set memory to none or dynamic, or use fleke run with strategy=global"
        )
    if config.memory == "dynamic":
        _check_dynamic(config)


def _check_dynamic(config: RunConfig) -> None:
    if not issubclass(EDITORS.get(config.editor), Editor):
        raise ConfigError(
            f"memory = 'dynamic' with editor = {config.editor!r}: this command keeps keys of "
            "editors with target vectors only; set memory=none, or use fleke run with "
            "strategy=global"
        )
    if config.merge.beta0 != 1.0:
        raise ConfigError(
            f"merge.beta0 = {config.merge.beta0:g}: this command leaves the covariance as it is; "
            "set it to 1, or use fleke run with strategy=global"
        )


def _batches(cases: Sequence[EvalCase], batch: int) -> Iterator[Sequence[EvalCase]]:
    size = batch or max(len(cases), 1)
    for start in range(0, len(cases), size):
        yield cases[start : start + size]


@dataclass
class EditSequence:
    """Batches of edits, each on the model that carries those before it.

    Parameters
    ----------
    config : RunConfig
        ``memory`` and ``fusion`` are what later batches know of earlier ones.
    editor : EditMethod
        With its recipe.
    model : EditableModel
        The base model, left unchanged.
    priors : Mapping[str, Prior]
        By module.
    progress : Progress
        Told of targets.
    """

    config: RunConfig
    editor: EditMethod
    model: EditableModel
    priors: Mapping[str, Prior]
    progress: Progress
    seconds_targets: float = 0.0

    def __post_init__(self) -> None:
        """Begin with the base model."""
        self.state = EditState(self.model.fingerprint)
        self._past: dict[str, Tensor] = {}
        self._fusion = Fusion(self.config.fusion, self.config.seed)

    def edit(self, requests: Sequence[EditRequest], number: int) -> None:
        """Edit one batch."""
        with self.state.applied(self.model.model):
            updates = self._updates(requests)
        after = self.state.plus(updates, number)
        if self.config.fusion.rule:
            fused = self._fusion.of_round(self.state.updates, after.updates, number, False)
            after = EditState(after.base, number, fused)
        self.state = after
        if self.config.memory == "dynamic" and isinstance(self.editor, Editor):
            self._remember(self.editor, requests)

    def _updates(self, requests: Sequence[EditRequest]) -> Mapping[str, LayerUpdate]:
        if not isinstance(self.editor, Editor):
            return direct_updates(self.editor, self.model, requests, self.priors, self.progress)
        started = time.perf_counter()
        targets = self.editor.targets(self.model, requests, self.progress)
        self.seconds_targets += time.perf_counter() - started
        return pooled(self.editor, self.model, requests, targets, self.priors, self._past)

    def _remember(self, editor: Editor, requests: Sequence[EditRequest]) -> None:
        """Keep the batch's keys, read behind it as AlphaEdit does, by the root of their weight."""
        weight = self.config.merge.beta1
        root = (editor.memory_weight if weight == UNSET else weight) ** 0.5
        with self.state.applied(self.model.model):
            keys = editor.readings(self.model, requests, editor.spec.layers).keys
        for layer, matrix in keys.items():
            module = self.model.module_name(layer)
            known = self._past.get(module)
            found = editor.system(matrix, torch.zeros_like(matrix))[0] * root
            self._past[module] = found if known is None else torch.cat([known, found], dim=1)


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
    cases = editable_cases(config, load_model(config.model))
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

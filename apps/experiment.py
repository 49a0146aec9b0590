"""A run from start to files: prepare once, run every variant, write each as soon as it is known."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid

from fleke_flwr import wire
from fleke_flwr.apps.kept_sums import keep_sums
from fleke_flwr.apps.manifest import manifest
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.apps.rows import metrics_row, round_line, spoken_line, variant_name
from fleke_flwr.artifacts import write_json, write_text
from fleke_flwr.config import UNSET, RunConfig
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.errors import ConfigError, DataError, RunError
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import EventFile
from fleke_flwr.spec import EditSpec
from fleke_flwr.strategies import STRATEGIES, FederatedStrategy, Plan
from fleke_flwr.strategies.nodes import Node, discover
from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.strategies.watched import WatchedGrid
from fleke_flwr.values import Scalar


class Experiment:
    """One Flower run of one or several strategies on the same clients and records.

    Parameters
    ----------
    config : RunConfig
        What to run; ``strategies``, ``editors`` and ``sweep`` make it several variants.
    grid : Grid
        The connection to the clients.
    directory : Path
        Where everything is written.
    """

    def __init__(self, config: RunConfig, grid: Grid, directory: Path) -> None:
        self.config = config
        self.grid = grid
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.progress = EventFile(directory / "events.jsonl")
        self.rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Run every variant; what is finished stays on disk whatever happens later."""
        # Whatever can be wrong is tried before a client is asked for anything.
        for name in self.config.editor_names:
            EDITORS.get(name)
        kinds = {name: STRATEGIES.get(name) for name in self.config.strategy_names}
        variants = self.config.variants
        for _, config in variants:
            check_kinds(kinds, config)
        model = load_model(self.config.model)
        specs = {
            (value, editor): resolve_recipe(replace(config, editor=editor), model)
            for value, config in variants
            for editor in config.editor_names
        }
        nodes = self._meet()
        self._check(nodes, model)
        for value, config in variants:
            base: RoundRecord | None = None
            for editor in config.editor_names:
                chosen = replace(config, editor=editor)
                plan = self._plan(chosen, model, specs[value, editor], value)
                if not self.rows and base is None:
                    manifest_ = manifest(self.config, model, plan, nodes)
                    write_json(self.directory / "manifest.json", manifest_)
                for name, kind in kinds.items():
                    rounds = (config.global_rounds if kind.pooled else 0) or config.rounds
                    own_plan = replace(plan, rounds=rounds)
                    options = _options(kind, chosen)
                    strategy = kind(own_plan, nodes[: config.clients], **options)
                    base = base or strategy.measure_base(self.grid, config.timeout)
                    self._run(strategy, chosen, name, base)
        if self.config.is_comparison:
            write_json(self.directory / "comparison.json", {"schema": 1, "rows": self.rows})

    def _meet(self) -> list[Node]:
        watched = WatchedGrid(self.grid, self.progress)
        watched.phase = "meet the clients"
        wanted = max(config.clients for _, config in self.config.variants)
        return discover(watched, wanted, self.config.timeout)[:wanted]

    def _check(self, nodes: list[Node], model: EditableModel) -> None:
        for node in nodes:
            if node.base != model.fingerprint:
                raise RunError(
                    f"client {node.partition} holds base model {node.base}, the server "
                    f"{model.fingerprint}; all must load the same weights and tokenizer"
                )
        total = sum(node.edits for node in nodes)
        if total == 0:
            raise DataError("no client has a record to edit; check data.path and data.edits")
        wanted = max(config.data.edits for _, config in self.config.variants)
        if total < wanted:
            raise DataError(
                f"{wanted} edits are asked for and the clients hold {total}; lower data.edits"
            )
        sizes = ", ".join(str(node.edits) for node in nodes)
        self.progress.line(f"{len(nodes)} clients with {sizes} records")

    def _plan(
        self, config: RunConfig, model: EditableModel, spec: EditSpec, value: Scalar | None
    ) -> Plan:
        return Plan(
            spec=spec,
            modules=tuple(model.module_name(layer) for layer in spec.layers),
            priors=known_priors(config, model, spec, self.progress),
            base=model.fingerprint,
            d_out=model.d_model,
            encoding=config.encoding,
            dtype=config.payload_dtype,
            state_dtype=torch.float64 if model.dtype == torch.float64 else torch.float32,
            clients=config.clients,
            needed_clients=config.needed_clients,
            rounds=config.rounds,
            memory=config.memory,
            beta0=config.merge.beta0,
            beta1=spec.ridge_weight if config.merge.beta1 == UNSET else config.merge.beta1,
            sweeps=config.sweeps,
            conflict=config.conflict,
            overlap=config.overlap,
            evaluate_every=config.evaluation.every,
            settings={} if value is None else {self.config.sweep.key: value},
            progress=self.progress,
        )

    def _run(
        self, strategy: FederatedStrategy, config: RunConfig, name: str, base: RoundRecord
    ) -> None:
        started = time.perf_counter()
        strategy.start(
            self.grid,
            wire.write_state(strategy.state),
            num_rounds=strategy.plan.rounds,
            timeout=config.timeout,
        )
        seconds = time.perf_counter() - started
        self._keep(strategy, metrics_row(config, strategy, name, base, seconds))

    def _keep(self, strategy: FederatedStrategy, row: dict[str, Any]) -> None:
        self.rows.append(row)
        for record in strategy.history:
            self.progress.line(spoken_line(row, record))
        folder = self.directory
        if self.config.is_comparison:
            folder = self.directory / "variants" / variant_name(self.config, row)
        # Personal models are their clients' and have been kept by them.
        if not strategy.personal:
            strategy.state.save(folder / "edits.safetensors")
            keep_sums(strategy, folder, self.progress)
        rounds = "".join(json.dumps(round_line(record)) + "\n" for record in strategy.history)
        write_text(folder / "rounds.jsonl", rounds)
        write_json(folder / "metrics.json", row)


def check_kinds(kinds: Mapping[str, type[FederatedStrategy]], config: RunConfig) -> None:
    """Refuse what only strategies can do that solve the clients' statistics.

    Raises
    ------
    ConfigError
        Naming the strategy and the setting.
    """
    asked = {
        f"memory = {config.memory!r}": config.memory != "none",
        f"sweeps = {config.sweeps}": config.sweeps > 1,
        f"conflict.policy = {config.conflict.policy!r}": bool(config.conflict.policy),
    }
    for name, kind in kinds.items():
        for setting, is_asked in asked.items():
            if is_asked and not kind.solves:
                raise ConfigError(
                    f"{setting} needs a strategy that solves the clients' statistics, "
                    f"and {name!r} does not; use collabedit or global, or leave it unset"
                )


def _options(kind: type[FederatedStrategy], config: RunConfig) -> dict[str, Any]:
    """Return those parameters of ``[merge]`` and ``[fededit]`` that a strategy takes."""
    accepted = inspect.signature(kind).parameters
    offered = {**asdict(config.merge), "fededit": config.fededit}
    return {name: value for name, value in offered.items() if name in accepted}

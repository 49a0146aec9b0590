"""A run from start to files: prepare once, run every variant, write each as soon as it is known."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid

from fleke_flwr import wire
from fleke_flwr.apps.checkpoints import Checkpoints
from fleke_flwr.apps.drift import measure_drift
from fleke_flwr.apps.kept_sums import keep_sums
from fleke_flwr.apps.manifest import manifest
from fleke_flwr.apps.networks import left_out_note
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.apps.rows import metrics_row, round_line, spoken_line, variant_name
from fleke_flwr.apps.strategy_options import check_options, strategy_options
from fleke_flwr.apps.trackers import Trackers
from fleke_flwr.artifacts import write_json, write_text
from fleke_flwr.config import UNSET, BoundConfig, RunConfig
from fleke_flwr.editors.base import EDITORS, EditMethod, Editor, UpdateEditor
from fleke_flwr.errors import ConfigError, DataError, RunError
from fleke_flwr.fusion import Fusion, check_fusion
from fleke_flwr.linalg import Prior
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import EventFile
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import EditState
from fleke_flwr.strategies import STRATEGIES, FederatedStrategy, Plan
from fleke_flwr.strategies.bounds import Bounds, output_norm
from fleke_flwr.strategies.nodes import Node, RollCall
from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.strategies.watched import WatchedGrid
from fleke_flwr.values import Scalar

log = getLogger("flwr")


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
        self._refused: list[str] = []
        self._trackers = Trackers(config, directory, self.progress)

    def run(self) -> None:
        """Run every variant; what is merged stays on disk whatever happens later."""
        try:
            self._run_all()
        finally:
            self._trackers.finish()

    def _run_all(self) -> None:
        # Whatever can be wrong is tried before a client is asked for anything.
        for name in self.config.editor_names:
            EDITORS.get(name)
        kinds = {name: STRATEGIES.get(name) for name in self.config.strategy_names}
        variants = self.config.variants
        for _, config in variants:
            check_kinds(kinds, config)
            check_editors(kinds, config)
        model = load_model(self.config.model)
        # The base model's part is kept, and a text that cannot be read is refused here.
        measure_drift(model, EditState(model.fingerprint), self.config)
        specs = {
            (value, editor): resolve_recipe(replace(config, editor=editor), model)
            for value, config in variants
            for editor in config.editor_names
        }
        check_recipes(kinds, specs.values())
        checkpoints = Checkpoints(self.directory, self.config)
        nodes = self._meet(model)
        self._check(nodes)
        own_data = any(node.own_data for node in nodes)
        if not own_data and (note := left_out_note(self.config, model)):
            self._say(note)
        for value, config in variants:
            for editor in config.editor_names:
                chosen = replace(config, editor=editor)
                plan = self._plan(chosen, model, specs[value, editor], value)
                if not self.rows:
                    manifest_ = manifest(self.config, model, plan, nodes, self._refused)
                    write_json(self.directory / "manifest.json", manifest_)
                for name, kind in kinds.items():
                    rounds = (config.global_rounds if kind.pooled else 0) or config.rounds
                    strategy = kind(
                        replace(plan, rounds=rounds), nodes, **strategy_options(kind, chosen)
                    )
                    base = checkpoints.base(
                        str(value), partial(strategy.measure_base, self.grid, config.timeout)
                    )
                    self._run(strategy, chosen, name, base, checkpoints)
        if self.config.is_comparison:
            write_json(self.directory / "comparison.json", {"schema": 1, "rows": self.rows})
        checkpoints.remove()

    def _meet(self, model: EditableModel) -> list[Node]:
        watched = WatchedGrid(self.grid, self.progress)
        watched.phase = "meet the clients"
        variants = [config for _, config in self.config.variants]
        roll = RollCall(
            base=model.fingerprint,
            wanted=max(config.clients for config in variants),
            needed=max(config.needed_clients for config in variants),
            join_timeout=self.config.join_timeout,
            timeout=self.config.timeout,
            say=self._say,
        )
        nodes = roll.first(watched)
        self._refused = sorted(roll.refused.values())
        return nodes

    def _check(self, nodes: list[Node]) -> None:
        total = sum(node.edits for node in nodes)
        if total == 0:
            raise DataError("no client has a record to edit; check data.path and data.edits")
        wanted = max(config.data.edits for _, config in self.config.variants)
        everybody = len(nodes) == self.config.clients
        if total < wanted and everybody and not any(node.own_data for node in nodes):
            raise DataError(
                f"{wanted} edits are asked for and the clients hold {total}; lower data.edits"
            )
        sizes = ", ".join(str(node.edits) for node in nodes)
        self._say(f"{len(nodes)} clients with {sizes} records")

    def _say(self, text: str) -> None:
        # Who submits a run to another machine reads Flower's log; the events lie over there.
        log.info(text)
        self.progress.line(text)

    def _plan(
        self, config: RunConfig, model: EditableModel, spec: EditSpec, value: Scalar | None
    ) -> Plan:
        editor = EDITORS.get(spec.editor)(spec)
        modules = editor.modules(model)
        priors = known_priors(config, model, spec, self.progress)
        if spec.mode != config.mode:
            self._say(
                f"editor {spec.editor}: mode {spec.mode}; {config.mode} makes no sense for it"
            )
        return Plan(
            spec=spec,
            modules=modules,
            priors=priors,
            base=model.fingerprint,
            d_out=model.d_model,
            shapes={module: model.shape_of(module) for module in modules},
            adds_up=not isinstance(editor, UpdateEditor),
            encoding=config.encoding,
            dtype=config.payload_dtype,
            state_dtype=torch.float64 if model.dtype == torch.float64 else torch.float32,
            clients=config.clients,
            needed_clients=config.needed_clients,
            join_timeout=config.join_timeout,
            rounds=config.rounds,
            memory=config.memory,
            beta0=config.merge.beta0,
            beta1=editor.memory_weight if config.merge.beta1 == UNSET else config.merge.beta1,
            sweeps=config.sweeps,
            bounds=_bounds(config.bound, model, editor, priors),
            fusion=Fusion(config.fusion, config.seed) if config.fusion.rule else None,
            conflict=config.conflict,
            overlap=config.overlap,
            evaluate_every=config.evaluation.every,
            settings={} if value is None else {self.config.sweep.key: value},
            progress=self.progress,
        )

    def _run(
        self,
        strategy: FederatedStrategy,
        config: RunConfig,
        name: str,
        base: RoundRecord,
        checkpoints: Checkpoints,
    ) -> None:
        variant = variant_name(self.config, name, config.editor, strategy.plan.settings)
        folder = self.directory
        if self.config.is_comparison:
            folder = self.directory / "variants" / variant
        row = checkpoints.finished(variant, folder)
        if row is None:
            spent = checkpoints.watch(strategy, variant)
            self._show_rounds(strategy, variant)
            started = time.perf_counter()
            try:
                strategy.start(
                    self.grid,
                    wire.write_state(strategy.state),
                    num_rounds=strategy.plan.rounds,
                    timeout=config.timeout,
                )
            except RunError as error:
                kept = _kept(checkpoints.merged, self.directory)
                raise RunError(f"{error}{kept}") from error
            seconds = spent + time.perf_counter() - started
            row = metrics_row(config, strategy, name, base, seconds, self._drift(strategy, config))
            self._keep(strategy, row, folder)
            checkpoints.finish(variant)
            self._trackers.variant(variant, row)
        self.rows.append(row)

    def _show_rounds(self, strategy: FederatedStrategy, variant: str) -> None:
        """Show trackers every round once it is on disk."""
        keep = strategy.on_round

        def on_round() -> None:
            keep()
            self._trackers.round(variant, strategy.history[-1])

        strategy.on_round = on_round

    def _drift(self, strategy: FederatedStrategy, config: RunConfig) -> dict[str, Any] | None:
        """Say how far a shared model has moved; personal ones are at their clients."""
        if strategy.personal:
            return None
        return measure_drift(load_model(config.model), strategy.state, config)

    def _keep(self, strategy: FederatedStrategy, row: dict[str, Any], folder: Path) -> None:
        for record in strategy.history:
            self._say(spoken_line(row, record))
        # Personal models are their clients' and have been kept by them.
        if not strategy.personal:
            strategy.state.save(folder / "edits.safetensors")
            keep_sums(strategy, folder, self.progress)
        rounds = "".join(json.dumps(round_line(record)) + "\n" for record in strategy.history)
        write_text(folder / "rounds.jsonl", rounds)
        write_json(folder / "metrics.json", row)


def _bounds(
    config: BoundConfig, model: EditableModel, editor: EditMethod, priors: Mapping[str, Prior]
) -> Bounds:
    norms = {
        module: output_norm(model.weight_of(module).double().cpu(), prior)
        for module, prior in priors.items()
        if editor.measured
    }
    weight = editor.prior_weight
    return Bounds(config.change, config.leverage, weight, norms, editor.measured)


def _kept(merged: int, directory: Path) -> str:
    """Say what of a broken-off variant is on disk."""
    if not merged:
        return ""
    rounds = "round 1 is" if merged == 1 else f"rounds 1 to {merged} are"
    return f" What was merged, {rounds} kept: go on with fleke run --resume {directory}"


def check_editors(kinds: Mapping[str, type[FederatedStrategy]], config: RunConfig) -> None:
    """Refuse what makes no sense for an editor: strategies that need what it does not give.

    Raises
    ------
    ConfigError
        Naming editor, strategy or setting, and what to choose instead.
    """
    check_fusion(config, [name for name, kind in kinds.items() if kind.personal])
    for name in config.editor_names:
        editor = EDITORS.get(name)
        for strategy, kind in kinds.items():
            if issubclass(editor, UpdateEditor) and kind.solves and not kind.pooled:
                raise ConfigError(
                    f"editor {name!r} gives an update and no statistics that add up over clients, "
                    f"which strategy {strategy!r} needs; choose simple_average, edit_avg, "
                    "task_arithmetic or ties, and global as their bound"
                )
            if kind.personal and not issubclass(editor, Editor):
                raise ConfigError(
                    f"editor {name!r} has no target vectors, which clients of strategy "
                    f"{strategy!r} hand to one another; choose memit or pmet"
                )
        asked = {
            f"sweeps = {config.sweeps}": config.sweeps > 1,
            f"conflict.policy = {config.conflict.policy!r}": bool(config.conflict.policy),
            f"overlap.threshold = {config.overlap.threshold:g}": config.overlap.threshold >= 0,
            f"memory = {config.memory!r}": config.memory != "none"
            and issubclass(editor, UpdateEditor),
        }
        for setting, is_asked in asked.items():
            if is_asked and not issubclass(editor, Editor):
                raise ConfigError(
                    f"{setting} looks at target vectors, and editor {name!r} has none; leave it "
                    "unset, or choose memit, pmet, emmet, alphaedit or adaple"
                )


def check_recipes(kinds: Mapping[str, type[FederatedStrategy]], specs: Iterable[EditSpec]) -> None:
    """Refuse recipes that clients could not follow with one another's memory vectors.

    Raises
    ------
    ConfigError
        Naming editor and strategy.
    """
    for spec in specs:
        editor = EDITORS.get(spec.editor)(spec)
        for name, kind in kinds.items():
            if kind.personal and isinstance(editor, Editor) and not editor.is_plain:
                raise ConfigError(
                    f"editor {spec.editor!r} scales what it solves ({dict(spec.options)}), and "
                    f"strategy {name!r} hands on vectors that say nothing of it; "
                    "set objective=memit in edit.options"
                )


def check_kinds(kinds: Mapping[str, type[FederatedStrategy]], config: RunConfig) -> None:
    """Refuse options nobody has, and what only strategies can do that solve statistics.

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
    check_options(kinds, config)
    for name, kind in kinds.items():
        for setting, is_asked in asked.items():
            if is_asked and not kind.solves:
                raise ConfigError(
                    f"{setting} needs a strategy that solves the clients' statistics, "
                    f"and {name!r} does not; use collabedit or global, or leave it unset"
                )

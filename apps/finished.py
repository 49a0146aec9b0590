"""A finished run whose edits may be withdrawn: its files, its settings, its records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.apps.results import read_rows
from fleke_flwr.apps.session import Session
from fleke_flwr.artifacts import read_json
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.editors.base import EDITORS, Editor
from fleke_flwr.editors.cache import target_keys
from fleke_flwr.editors.direct import located
from fleke_flwr.errors import DataError, ModelError, RunError
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import EditState
from fleke_flwr.strategies import STRATEGIES, CollabEdit
from fleke_flwr.types import EvalCase


@dataclass(frozen=True)
class Held:
    """A record with its holder, the round in which it was edited, and the name of its target."""

    client: int
    round: int
    case: EvalCase
    key: str


@dataclass(frozen=True)
class Finished:
    """A finished run, or one variant of a comparison.

    Parameters
    ----------
    root : Path
        Directory of the run, with ``manifest.json``.
    folder : Path
        Where the variant's files are: the same, or ``root/variants/NAME``.
    manifest : dict[str, Any]
        Of the run.
    row : dict[str, Any]
        The variant's ``metrics.json``.
    config : RunConfig
        The variant's settings.
    """

    root: Path
    folder: Path
    manifest: dict[str, Any]
    row: dict[str, Any]
    config: RunConfig

    @classmethod
    def open(cls, run: Path) -> Finished:
        """Read what a run has written.

        Raises
        ------
        DataError
            If the directory holds no finished run, or a comparison without a named variant.
        """
        folder = run.expanduser().resolve()
        variants = folder / "variants"
        if variants.is_dir():
            names = ", ".join(sorted(f"{run}/variants/{path.name}" for path in variants.iterdir()))
            raise DataError(f"{run}: a comparison; name one of its variants: {names}")
        root = folder if folder.parent.name != "variants" else folder.parent.parent
        row = read_rows(folder)[0]
        manifest = read_json(root / "manifest.json")
        flat = {**manifest["config"], **row["settings"]}
        flat.update({"sweep.key": "", "sweep.values": "", "strategies": "", "editors": ""})
        flat.update({key: row[key] for key in ("strategy", "editor", "mode")})
        return cls(root, folder, manifest, row, RunConfig.from_flat(flat))

    @property
    def variant(self) -> str:
        """Name of the variant; empty for a run of one."""
        return "" if self.folder == self.root else self.folder.name

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """What has been withdrawn from this variant before."""
        return [
            entry
            for entry in self.manifest.get("revocations", [])
            if entry["variant"] == self.variant
        ]

    @property
    def has_targets(self) -> bool:
        """Whether the clients have kept their target vectors in this run's directory."""
        return (self.root / "targets").is_dir()

    @cached_property
    def model(self) -> EditableModel:
        """The base model.

        Raises
        ------
        ModelError
            If it is another one than the run's.
        """
        model = load_model(self.config.model)
        wanted = self.manifest["model"]["fingerprint"]
        if model.fingerprint != wanted:
            raise ModelError(
                f"model {self.config.model.name!r} is {model.fingerprint} now and was {wanted} in "
                "the run; put the weights back that were edited"
            )
        return model

    @cached_property
    def spec(self) -> EditSpec:
        """The recipe that all clients followed."""
        if self.variant:
            return resolve_recipe(self.config, self.model)
        return EditSpec.from_json(json.dumps(self.manifest["recipe"]))

    @property
    def replays(self) -> bool:
        """Whether the model can only be made again layer by layer."""
        return self.config.mode == "layer_sync"

    @cached_property
    def weighted_spec(self) -> EditSpec:
        """The recipe with the covariance weighed as a dynamic memory weighs it in its one round."""
        weight = self.config.merge.beta0 if self.config.memory == "dynamic" else 1.0
        return replace(self.spec, ridge_weight=self.spec.ridge_weight * weight)

    @cached_property
    def editor(self) -> Editor:
        """The editor, with the recipe.

        Raises
        ------
        ConfigError
            If it has no target vectors, by which single edits are found.
        """
        return located(EDITORS.get(self.config.editor)(self.spec))

    @cached_property
    def state(self) -> EditState:
        """The edited model as it is now."""
        return EditState.load(self.folder / "edits.safetensors")

    @cached_property
    def held(self) -> list[Held]:
        """All clients' records that are still in the model.

        Raises
        ------
        DataError
            If the records are no longer those of the run, or were never on this machine.
        """
        if not self.has_targets:
            raise DataError(
                f"{self.root}/targets: no such directory; the clients of a deployment keep records "
                "and target vectors to themselves, and without them only a whole client can be "
                "withdrawn, from a run with encoding = factors and a mode other than layer_sync"
            )
        self._check_records()
        gone = {key for entry in self.earlier for key in entry["keys"]}
        clients = {entry["client"] for entry in self.earlier}
        return [
            item for item in self._dealt() if item.client not in clients and item.key not in gone
        ]

    def _check_records(self) -> None:
        found, wanted = load_cases(self.config.data), self.manifest["data"]
        same_source = self.config.data == RunConfig.from_flat(self.manifest["config"]).data
        if same_source and found.fingerprint != wanted["fingerprint"]:
            raise DataError(
                f"{self.config.data.path}: its records are {found.fingerprint} now and were "
                f"{wanted['fingerprint']} in the run; put the file back that was edited"
            )

    def _dealt(self) -> list[Held]:
        base = EditState(self.model.fingerprint).fingerprint
        found = []
        for client in range(self.config.clients):
            session = Session(self.config, self.model, client, self.config.clients, own_data=False)
            for number, cases in enumerate(session.dealt(self.config.rounds), start=1):
                requests = [case.request for case in cases]
                keys = target_keys(self.editor, self.model, base, requests)
                found += [
                    Held(client, number, case, key) for case, key in zip(cases, keys, strict=True)
                ]
        return found

    def check(self) -> None:
        """Refuse runs from which nothing can be withdrawn without optimising again.

        Raises
        ------
        RunError
            Naming the setting to run with.
        """
        for is_so, what, instead in self._obstacles():
            if is_so:
                raise RunError(
                    f"{self.folder}: {what}, so edits cannot be withdrawn without optimising "
                    f"others again; run it {instead}"
                )

    def _obstacles(self) -> Sequence[tuple[bool, str, str]]:
        config, row, kind = self.config, self.row, STRATEGIES.get(self.row["strategy"])
        name = row["strategy"]
        conflicts, overlap = row.get("conflicts", {}), row.get("overlap", {})
        lost = [
            client
            for line in row["history"]
            for client, why in line["left_out"].items()
            if not why.startswith("evaluation:")
        ]
        return (
            (
                getattr(kind, "merge", None) is not CollabEdit.merge,
                f"strategy {name!r} does not solve sums",
                "with strategy = collabedit",
            ),
            (kind.pooled, f"{name!r} pools all records", "with strategy = collabedit"),
            (
                config.mode == "local_sequential",
                "in mode 'local_sequential' every client reads on a model of its own",
                "with mode = joint",
            ),
            (config.sweeps > 1, f"{config.sweeps} sweeps read on edited models", "with sweeps = 1"),
            (
                config.rounds > 1 and config.memory != "statistics",
                f"with memory = {config.memory!r} later rounds build on earlier ones",
                "with memory = statistics",
            ),
            (
                bool(conflicts.get("strengthened")),
                "conflicts were settled in it, and the verdicts are its clients'",
                "without conflict.policy",
            ),
            (
                bool(overlap.get("skipped")),
                "its clients left edits out that others had made before",
                "with overlap.action = send",
            ),
            (
                config.mode == "layer_sync" and bool(lost),
                f"client {', '.join(lost)} was left out of exchanges between layers",
                "until no client fails, or in mode joint",
            ),
        )

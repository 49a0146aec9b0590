"""The edited model of a finished run, chosen to leave it, and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fleke_flwr import __version__
from fleke_flwr.apps.finished import Finished
from fleke_flwr.apps.results import personal
from fleke_flwr.errors import ConfigError, DataError, ModelError
from fleke_flwr.state import EditState
from fleke_flwr.strategies import STRATEGIES

_MEASURED = ("score", "efficacy", "paraphrase", "neighborhood", "same_subject")


@dataclass(frozen=True)
class Edited:
    """A shared model, or the personal one of a client.

    Parameters
    ----------
    finished : Finished
        The run.
    client : int or None
        Whose model; ``None`` for the shared one.
    """

    finished: Finished
    client: int | None

    @classmethod
    def open(cls, run: Path, client: int | None) -> Edited:
        """Find the model in a run.

        Raises
        ------
        ConfigError
            If a client is named and the model is shared, or the other way round.
        DataError
            If the directory holds no finished run, or a comparison without a named variant.
        """
        found = cls(Finished.open(run), client)
        is_personal = personal(found.finished.row)
        if client is not None and not is_personal:
            raise ConfigError(
                f"{run}: strategy {found.finished.row['strategy']!r} ends with one shared model; "
                "leave --client out"
            )
        if is_personal and not found.path.is_file():
            raise ConfigError(found._choice(run))
        return found

    @property
    def path(self) -> Path:
        """File of the updates."""
        if not personal(self.finished.row):
            return self.finished.folder / "edits.safetensors"
        return self._personal / f"client-{self.client}.safetensors"

    @property
    def _personal(self) -> Path:
        """Where the clients of a variant have kept their models, on the machine of each."""
        row = self.finished.row
        settings = "".join(f" {key}={value}" for key, value in (row["settings"] or {}).items())
        name = f"{STRATEGIES.get(row['strategy']).__name__}{settings} {row['editor']}"
        return self.finished.root / "personal" / re.sub(r"[^\w.=-]+", "_", name)

    def _choice(self, run: Path) -> str:
        found = sorted(int(path.stem.partition("-")[2]) for path in self._personal.glob("client-*"))
        if not found:
            return (
                f"{run}: its models are personal and none is here; each is in the results "
                "directory of its client"
            )
        wrong = "" if self.client is None else f"there is no model of client {self.client}; "
        return (
            f"{run}: the models are personal; {wrong}choose --client from "
            f"{', '.join(str(client) for client in found)}"
        )

    @cached_property
    def state(self) -> EditState:
        """The updates.

        Raises
        ------
        DataError
            If there are none.
        ModelError
            If they were made for another base model than the run's.
        """
        state, wanted = EditState.load(self.path), self.finished.manifest["model"]["fingerprint"]
        if state.base != wanted:
            raise ModelError(
                f"{self.path}: made for base model {state.base}, and the run's is {wanted}; a file "
                "was replaced"
            )
        if not state.updates:
            raise DataError(f"{self.path}: holds no edits; the model is the base model")
        return state

    @property
    def edits(self) -> int:
        """How many edits the model was asked to carry, without the withdrawn ones."""
        row = self.finished.row
        if self.client is not None:
            own = [line for line in row["per_client"] if line["client"] == self.client]
            return sum(int(line["edits"]) for line in own)
        withdrawn = sum(int(entry["edits"]) for entry in self.finished.earlier)
        return int(row["edits"]) - withdrawn

    def provenance(self) -> dict[str, Any]:
        """Say where the model comes from; no text of any edit is in it."""
        finished, row, config = self.finished, self.finished.row, self.finished.config
        return {
            "schema": 1,
            "fleke-flwr": __version__,
            "run": finished.root.name,
            "variant": finished.variant,
            "client": self.client,
            "base": {
                "name": config.model.name,
                "revision": config.model.revision,
                "dtype": config.model.dtype,
                "fingerprint": self.state.base,
            },
            "state": self.state.fingerprint,
            "strategy": row["strategy"],
            "editor": row["editor"],
            "mode": row["mode"],
            "clients": row["clients"],
            "rounds": self.state.round,
            "edits": self.edits,
            "withdrawals": len(finished.earlier),
            "measured": self._measured(),
        }

    def _measured(self) -> dict[str, float]:
        """Return what the run measured of exactly this model."""
        if self.finished.earlier or self.client is not None:
            return {}
        final = self.finished.row["final"]
        return {key: final[key] for key in _MEASURED if final.get(key) is not None}


def run_name(about: Mapping[str, Any]) -> str:
    """Name run and variant of a provenance."""
    return "/".join(part for part in (about["run"], about["variant"]) if part)

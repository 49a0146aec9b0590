"""Everything a strategy needs to go on after a round, in one file that is whole or absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.errors import DataError
from fleke_flwr.state import EditState, tensors_of, updates_of
from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.strategies.rounds_json import from_json, to_json

_SCHEMA = 1
_STATE, _OWN = "state:", "own:"


@dataclass(frozen=True)
class Checkpoint:
    """A strategy after a merged round.

    Parameters
    ----------
    variant : str
        Name of the variant of the run that it belongs to.
    state : EditState
        The shared edits.
    history : Sequence[RoundRecord]
        All rounds so far.
    tensors, about : Mapping
        What the strategy itself has to remember; see ``FederatedStrategy.remembered``.
    seconds : float
        Time that the rounds have taken.
    """

    variant: str
    state: EditState
    history: Sequence[RoundRecord]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write to a safetensors file whose header holds the rest as JSON."""
        tensors = {
            f"{_STATE}{module}/{part}": tensor
            for module, update in self.state.updates.items()
            for part, tensor in tensors_of(update).items()
        }
        tensors |= {f"{_OWN}{name}": tensor for name, tensor in self.tensors.items()}
        metadata = {
            "schema": _SCHEMA,
            "variant": self.variant,
            "base": self.state.base,
            "round": self.state.round,
            "history": [to_json(record) for record in self.history],
            "about": dict(self.about),
            "seconds": self.seconds,
        }
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged or something else.
        """
        tensors, about = read_tensors(path)
        if about.get("schema") != _SCHEMA or "history" not in about:
            raise DataError(f"{path}: not a checkpoint of fleke-flwr (schema {_SCHEMA})")
        state = EditState(about["base"], about["round"], updates_of(_under(_STATE, tensors)))
        return cls(
            variant=about["variant"],
            state=state,
            history=[from_json(record) for record in about["history"]],
            tensors=_under(_OWN, tensors),
            about=about["about"],
            seconds=about["seconds"],
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }

"""The target vectors that clients of a simulation have kept under ``RUN/targets``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.editors.base import Targets
from fleke_flwr.errors import DataError

POOLED = "pooled"
_PARTS = tuple(field.name for field in fields(Targets))


class KeptTargets:
    """One client's kept targets by the names of their rows.

    Parameters
    ----------
    run : Path
        Directory of the run.
    owner : int or str
        Number of the client, or ``pooled`` for those of the bound.
    """

    def __init__(self, run: Path, owner: int | str) -> None:
        name = owner if isinstance(owner, str) else f"client-{owner}"
        self.path = run / "targets" / f"{name}.safetensors"
        self._tensors: Mapping[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        if self.path.is_file():
            self._tensors, about = read_tensors(self.path)
            self._rows = {key: row for row, key in enumerate(about["keys"])}

    def of(self, keys: Sequence[str]) -> Targets:
        """Return targets by name, of at least one edit; none is ever optimised.

        Raises
        ------
        DataError
            If one is missing.
        """
        missing = sum(key not in self._rows for key in keys)
        if missing:
            raise DataError(
                f"{self.path}: lacks the target vectors of {missing} of {len(keys)} edits: the "
                "clients kept them elsewhere, or with other records or settings; without them "
                "nothing can be withdrawn"
            )
        targets = Targets(*(self._tensors[part] for part in _PARTS))
        return targets.rows([self._rows[key] for key in keys])

    def drop(self, keys: Collection[str]) -> None:
        """Remove rows from the file, and the file with its last row."""
        stays = [key for key in self._rows if key not in keys]
        if len(stays) == len(self._rows):
            return
        if not stays:
            self.path.unlink()
            return
        rows = torch.tensor([self._rows[key] for key in stays])
        tensors = {part: tensor[rows] for part, tensor in self._tensors.items()}
        write_tensors(self.path, tensors, {"schema": 1, "keys": stays})

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def joined(parts: Sequence[Targets]) -> Targets:
    """Put targets of several clients one after the other."""
    return Targets(*(torch.cat([getattr(part, name) for part in parts]) for name in _PARTS))

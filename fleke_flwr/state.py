"""The shared edit state: what has been added to the base model so far."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.errors import DataError, ModelError
from fleke_flwr.types import LayerUpdate, add_updates


@dataclass(frozen=True)
class EditState:
    """Updates of the edited projections, relative to one base model.

    Parameters
    ----------
    base : str
        Fingerprint of the unedited model.
    round : int
        Rounds merged so far.
    updates : Mapping[str, LayerUpdate]
        Total change by module name, in math orientation.
    """

    base: str
    round: int = 0
    updates: Mapping[str, LayerUpdate] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of base and updates; two equal states have the same one."""
        digest = hashlib.sha256(self.base.encode())
        for name in sorted(self.updates):
            digest.update(name.encode())
            for tensor in tensors_of(self.updates[name]).values():
                digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def plus(self, updates: Mapping[str, LayerUpdate], round_: int) -> EditState:
        """Return the state with further updates added."""
        return EditState(self.base, round_, add_updates(self.updates, updates))

    def to(self, dtype: torch.dtype) -> EditState:
        """Convert the numbers of all updates."""
        updates = {module: update.to(dtype) for module, update in self.updates.items()}
        return EditState(self.base, self.round, updates)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Edit the model inside the ``with`` block; its weights come back bit for bit."""
        with applied(model, self.updates):
            yield

    def save(self, path: Path) -> None:
        """Write the updates to a safetensors file."""
        tensors = {
            f"{module}/{part}": tensor
            for module, update in self.updates.items()
            for part, tensor in tensors_of(update).items()
        }
        metadata = {"schema": 1, "base": self.base, "round": self.round}
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> EditState:
        """Read a state written by :meth:`save`.

        Raises
        ------
        DataError
            If the file is missing, damaged or not an edit state.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("schema") != 1 or "base" not in metadata:
            raise DataError(f"{path}: not an edit state of fleke-flwr (schema 1)")
        return cls(metadata["base"], int(metadata["round"]), updates_of(tensors))


def tensors_of(update: LayerUpdate) -> dict[str, Tensor]:
    """Name the tensors of an update: ``dense``, or ``left`` and ``right``."""
    if update.right is None:
        return {"dense": update.left}
    return {"left": update.left, "right": update.right}


def updates_of(tensors: Mapping[str, Tensor]) -> dict[str, LayerUpdate]:
    """Rebuild updates from tensors named ``module/part``.

    Raises
    ------
    DataError
        If a name or a pair of factors is incomplete.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition("/")
        parts.setdefault(module, {})[part] = tensor
    updates = {}
    for module, found in parts.items():
        if set(found) == {"dense"}:
            updates[module] = LayerUpdate(found["dense"])
        elif set(found) == {"left", "right"}:
            updates[module] = LayerUpdate(found["left"], found["right"])
        else:
            raise DataError(
                f"update of module {module!r} has parts {sorted(found)}; "
                "need 'dense', or 'left' and 'right'"
            )
    return updates


@contextmanager
def applied(model: nn.Module, updates: Mapping[str, LayerUpdate]) -> Iterator[None]:
    """Add updates to a model's weights and restore them exactly, also after an exception.

    A projection stored transposed (the ``Conv1D`` of GPT-2, ``(d_in, d_out)``) receives the
    transpose; everything else is in math orientation ``(d_out, d_in)``.

    Raises
    ------
    ModelError
        If a module is missing or its weight has another shape.
    """
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for name, update in updates.items():
                weight, change = _weight_and_change(model, name, update)
                saved.append((weight, weight.detach().clone()))
                weight.add_(change.to(device=weight.device, dtype=weight.dtype))
        yield
    finally:
        with torch.no_grad():
            for weight, original in saved:
                weight.copy_(original)


def _weight_and_change(model: nn.Module, name: str, update: LayerUpdate) -> tuple[Tensor, Tensor]:
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ModelError(
            f"the model has no module {name!r}; the update is another model's"
        ) from error
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise ModelError(f"module {name!r} has no weight to edit")
    change = update.dense()
    if type(module).__name__ == "Conv1D":
        change = change.T
    if weight.shape != change.shape:
        raise ModelError(
            f"module {name!r} is {tuple(weight.shape)} and the update {tuple(change.shape)}; "
            "the update is another model's"
        )
    return weight, change

"""Write updates as a LoRA adapter that ``peft`` loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fleke_flwr.artifacts import read_json, write_json, write_tensors
from fleke_flwr.errors import ConfigError, ModelError
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.orientation import is_transposed, stored_change
from fleke_flwr.types import LayerUpdate

# Names that peft gives its files and tensors.
_WEIGHTS, _CONFIG, _PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."


@dataclass(frozen=True)
class LowRank:
    """An update as a product of few columns, and what that leaves out.

    Parameters
    ----------
    factors : LayerUpdate
        ``left (d_out, r)`` and ``right (r, d_in)``, each with the roots of the singular values.
    full_rank : int
        Numerical rank of the whole update.
    energy : float
        Share of the squared singular values that is kept.
    error : float
        ``|update - left right| / |update|`` in the Frobenius norm, measured on the factors as they
        are stored.
    """

    factors: LayerUpdate
    full_rank: int
    energy: float
    error: float

    @property
    def rank(self) -> int:
        """Number of columns kept."""
        return int(self.factors.left.shape[1])


def low_rank(update: LayerUpdate, rank: int | None = None) -> LowRank:
    """Truncate an update to its largest singular values (Eckart and Young, 1936).

    Parameters
    ----------
    update : LayerUpdate
        ``(d_out, d_in)``, as a product or dense; the decomposition is computed in float64.
    rank : int, optional
        How many to keep at most; without it all above the rounding of the update's own format.
    """
    left, singular, right = _decomposed(update)
    precision = torch.finfo(update.left.dtype).eps
    full_rank = int((singular > precision * singular[:1]).sum())
    kept = full_rank if rank is None else min(rank, full_rank)
    root = singular[:kept].sqrt()
    factors = LayerUpdate(left[:, :kept] * root, root[:, None] * right[:kept])
    factors = factors.to(update.left.dtype)
    wanted, total = update.to(torch.float64).dense(), float(singular.square().sum())
    missed = float((wanted - factors.to(torch.float64).dense()).norm())
    return LowRank(
        factors=factors,
        full_rank=full_rank,
        energy=float(singular[:kept].square().sum()) / total if total else 1.0,
        error=missed / float(wanted.norm()) if total else 0.0,
    )


def _decomposed(update: LayerUpdate) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin singular value decomposition; of a product without forming it."""
    if update.right is None:
        left, singular, right = torch.linalg.svd(update.left.double(), full_matrices=False)
        return left, singular, right
    basis_left, inner_left = torch.linalg.qr(update.left.double())
    basis_right, inner_right = torch.linalg.qr(update.right.double().T)
    left, singular, right = torch.linalg.svd(inner_left @ inner_right.T, full_matrices=False)
    return basis_left @ left, singular, right @ basis_right.T


def save_adapter(
    model: EditableModel,
    updates: Mapping[str, LayerUpdate],
    directory: Path,
    rank: int | None = None,
    base: str = "",
) -> dict[str, LowRank]:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, scaled by exactly 1.

    ``lora_B (d_out, r)`` is the left factor and ``lora_A (r, d_in)`` the right one. Ranks differ
    between modules, so ``rank_pattern`` and ``alpha_pattern`` name each with the same number. A
    module whose update is zero is left out.

    Parameters
    ----------
    model : EditableModel
        The base model.
    updates : Mapping[str, LayerUpdate]
        By module.
    directory : Path
        Of the adapter.
    rank : int, optional
        How many singular values to keep at most.
    base : str
        What ``peft`` calls the base model, for its own loading of it.

    Raises
    ------
    ConfigError
        If ``peft`` is not installed, or no update has that rank.
    ModelError
        If the updates do not fit the model, or are all zero.
    """
    for name, update in updates.items():
        stored_change(model.model, name, update)
    parts = {name: low_rank(update, rank) for name, update in updates.items()}
    largest = max((part.full_rank for part in parts.values()), default=0)
    if largest == 0:
        raise ModelError("the update is zero everywhere; the edited model is the base model")
    if rank is not None and not 1 <= rank <= largest:
        raise ConfigError(f"rank {rank}: the update has rank {largest}; choose 1 to {largest}")
    used = {name: part for name, part in sorted(parts.items()) if part.rank}
    _write_config(model, used, directory, base)
    write_tensors(directory / _WEIGHTS, _lora_tensors(used))
    return used


def _lora_tensors(parts: Mapping[str, LowRank]) -> dict[str, Tensor]:
    tensors = {}
    for name, part in parts.items():
        assert part.factors.right is not None  # low_rank makes products
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = part.factors.right
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = part.factors.left
    return tensors


def _write_config(
    model: EditableModel, parts: Mapping[str, LowRank], directory: Path, base: str
) -> None:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ConfigError(
            "an adapter needs the package peft; install it with pip install 'fleke-flwr[peft]'"
        ) from error
    largest = max(part.rank for part in parts.values())
    ranks = {name: part.rank for name, part in parts.items() if part.rank != largest}
    config = LoraConfig(
        r=largest,
        lora_alpha=largest,
        rank_pattern=ranks,
        alpha_pattern=ranks,
        target_modules=list(parts),
        fan_in_fan_out=any(is_transposed(model.model, name) for name in parts),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base,
    )
    config.save_pretrained(str(directory))
    # peft keeps the modules as a set, whose order differs from one process to the next.
    path = directory / _CONFIG
    write_json(path, {**read_json(path), "target_modules": list(parts)})

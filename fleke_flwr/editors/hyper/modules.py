"""Which modules a hyper-network edits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fleke_flwr.errors import UnsupportedModelError
from fleke_flwr.models import EditableModel


def edited_modules(editor: str, model: EditableModel, layers: Sequence[int]) -> tuple[str, ...]:
    """Return full names: MALMEN edits the second matrix of each MLP, MEND all of its matrices."""
    if editor == "malmen":
        return tuple(model.module_name(layer) for layer in layers)
    return tuple(name for layer in layers for name in mlp_matrices(model, layer))


def mlp_matrices(model: EditableModel, layer: int) -> tuple[str, ...]:
    """Return the full names of the linear modules of a layer's MLP, in the order they are held.

    Raises
    ------
    ModelError
        If the model has no such layer.
    UnsupportedModelError
        If the family's row does not say what the MLP is made of, or it has fewer than two matrices.
    """
    model.module_name(layer)
    family = model.family
    block = f"{family.blocks}.{layer}"
    found = [
        ".".join(filter(None, (block, part, name)))
        for part in filter(None, family.mlp_modules)
        for name, module in model.blocks[layer].get_submodule(part).named_modules()
        if _is_linear(module)
    ]
    if len(found) < 2:
        raise UnsupportedModelError(
            f"the row of type {family.model_type!r} names an MLP with {len(found)} linear modules, "
            "and MEND edits two or three; add mlp or mlp_chain to it, or take another editor, for "
            "example malmen"
        )
    return tuple(found)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"

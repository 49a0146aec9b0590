"""Guess the row of an unknown model family from the names of its modules."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from torch import Tensor, nn
from transformers import PreTrainedModel

_NOT_FOUND = "?"


def suggested_row(model: PreTrainedModel) -> str:
    """Return a ``Family(...)`` to paste, with ``"?"`` where nothing fits.

    Only what every family needs is guessed, so that its blocks are called whole; which norm
    belongs to which part cannot be seen from names.
    """
    blocks, layers = _blocks(model)
    block = layers[0] if len(layers) else nn.Module()
    values = {
        "model_type": str(model.config.model_type),
        "blocks": blocks,
        "projection": _projection(block, int(model.config.get_text_config().hidden_size)),
        "final_norm": _final_norm(model, blocks),
        "head": _head(model),
        "attention": _child(block, ("attn", "attention")),
        "mlp": _child(block, ("mlp", "ffn", "feed_forward", "ff")),
        "cache": _cache(block),
    }
    lines = "".join(f'    {name}="{value}",\n' for name, value in values.items())
    return f"Family(\n{lines})"


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the list of modules that holds most parameters."""
    lists = [
        (name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)
    ]
    if not lists:
        return _NOT_FOUND, nn.ModuleList()
    return max(lists, key=lambda found: _size(found[1]))


def _projection(block: nn.Module, width: int) -> str:
    """Return the last matrix outside attention and experts that writes into the residual stream."""
    names = [
        name
        for name, part in block.named_modules()
        if _is_matrix(part)
        and _width_out(part) == width
        and not any(word in name.lower() for word in ("att", "expert"))
    ]
    return names[-1] if names else _NOT_FOUND


def _final_norm(model: nn.Module, blocks: str) -> str:
    """Return the norm that stands beside the list of blocks."""
    parent = blocks.rpartition(".")[0]
    if blocks == _NOT_FOUND:
        return _NOT_FOUND
    children = model.get_submodule(parent).named_children()
    found = [name for name, part in children if "norm" in type(part).__name__.lower()]
    return ".".join(filter(None, (parent, found[-1]))) if found else _NOT_FOUND


def _head(model: PreTrainedModel) -> str:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return next((name for name, part in model.named_modules() if part is head), _NOT_FOUND)


def _child(block: nn.Module, words: Iterable[str]) -> str:
    for name, part in block.named_children():
        is_norm = "norm" in type(part).__name__.lower()
        if _size(part) and not is_norm and any(word in name.lower() for word in words):
            return name
    return ""


def _cache(block: nn.Module) -> str:
    known = inspect.signature(type(block).forward).parameters
    return "layer_past" if "layer_past" in known else "past_key_values"


def _is_matrix(part: nn.Module) -> bool:
    return getattr(getattr(part, "weight", None), "ndim", 0) == 2


def _width_out(part: nn.Module) -> int:
    weight = part.weight
    assert isinstance(weight, Tensor)  # a matrix has one
    return int(weight.shape[1 if type(part).__name__ == "Conv1D" else 0])


def _size(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())

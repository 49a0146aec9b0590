"""Run parts of a decoder: some blocks, some positions, with earlier positions remembered.

Exact for causal decoders: what a position computes depends on earlier positions only through
their keys and values, so those are computed once and every later pass covers just the positions
that change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fleke_flwr.errors import UnsupportedModelError
from fleke_flwr.models.attention import mask_of
from fleke_flwr.models.hooks import enter_blocks
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.placement import moved, placed, take


@dataclass(frozen=True)
class Memory:
    """Keys and values of earlier positions.

    Parameters
    ----------
    layers : Mapping[int, tuple[Tensor, Tensor]]
        Keys and values ``(rows, heads, past, head width)`` by layer.
    valid : Tensor
        Which of the past positions count, ``(rows, past)``.
    """

    layers: Mapping[int, tuple[Tensor, Tensor]]
    valid: Tensor

    def rows(self, index: Tensor) -> Memory:
        """Take (or repeat) rows."""
        return Memory(take(dict(self.layers), index), take(self.valid, index))

    def above(self, layer: int) -> Memory:
        """Forget the layers up to ``layer``."""
        return Memory({key: pair for key, pair in self.layers.items() if key > layer}, self.valid)

    def followed_by(self, later: Memory) -> Memory:
        """Append later positions, for the layers that both remember."""
        layers = {
            layer: (
                torch.cat([self.layers[layer][0], keys], 2),
                torch.cat([self.layers[layer][1], values], 2),
            )
            for layer, (keys, values) in later.layers.items()
            if layer in self.layers
        }
        return Memory(layers, torch.cat([self.valid, later.valid], 1))


@dataclass
class Attended:
    """Stands in for a transformers cache: joins remembered and new keys, and keeps neither.

    Parameters
    ----------
    memory : Memory or None
        What to put in front.
    recorded : dict[int, tuple[Tensor, Tensor]]
        Filled with the new keys and values by layer.
    """

    memory: Memory | None
    recorded: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Return the keys and values to attend to; called by the attention module."""
        self.recorded[layer_idx] = (keys, values)
        if self.memory is None:
            return keys, values
        past_keys, past_values = moved(self.memory.layers[layer_idx], keys.device)
        return torch.cat([past_keys, keys], 2), torch.cat([past_values, values], 2)


@dataclass(frozen=True)
class Segment:
    """Rows of consecutive positions that are computed together; padding is on the right.

    Parameters
    ----------
    arguments : Mapping[str, Mapping[str, Any]]
        By kind of attention what its blocks are called with: how blocks of this family know the
        positions, and ``attention_mask``, ``(rows, 1, length, past + length)``.
    memory : Memory or None
        The positions before.
    """

    arguments: Mapping[str, Mapping[str, Any]]
    memory: Memory | None

    def rows(self, index: Tensor) -> Segment:
        """Take some rows."""
        arguments = {kind: take(dict(values), index) for kind, values in self.arguments.items()}
        return Segment(arguments, self.memory.rows(index) if self.memory else None)


def segment(
    model: EditableModel, ids: Tensor, positions: Tensor, memory: Memory | None
) -> tuple[Tensor, Segment]:
    """Embed tokens that follow remembered positions.

    Parameters
    ----------
    ids, positions : Tensor
        Token ids and their places in the text, ``(rows, length)``.
    memory : Memory or None
        With one row for each row of ``ids``.

    Returns
    -------
    tuple[Tensor, Segment]
        Hidden states ``(rows, length, d)`` that enter block 0, and the segment.
    """
    hidden, places = enter_blocks(model, ids, positions)
    past = None if memory is None else memory.valid
    config = model.config
    arguments = {
        kind: {**values, "attention_mask": mask_of(config, kind, hidden, past)}
        for kind, values in places.items()
    }
    return hidden, Segment(arguments, memory)


def subsegment(model: EditableModel, positions: Tensor, memory: Memory | None) -> Segment:
    """Prepare positions ``(rows, length)`` whose hidden states are already known."""
    return segment(model, torch.zeros_like(positions), positions, memory)[1]


def run_blocks(
    model: EditableModel,
    hidden: Tensor,
    part: Segment,
    start: int,
    stop: int,
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Run the blocks ``start`` to ``stop - 1``.

    Returns
    -------
    tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]
        Hidden states ``(rows, length, d)`` behind the last of them, and the new keys and values
        by layer.
    """
    attended = Attended(part.memory)
    for layer in range(start, stop):
        block = model.blocks[layer]
        output = block(
            placed(hidden, block), use_cache=False, **_arguments(model, layer, part, attended)
        )
        hidden = output[0] if isinstance(output, tuple) else output
        if layer not in attended.recorded:
            raise UnsupportedModelError(
                f"blocks of type {model.family.model_type!r} make no use of "
                f"{model.family.cache!r}; correct the cache in their row of "
                "fleke_flwr/models/families.py"
            )
    return hidden, attended.recorded


Where = tuple[Tensor, Tensor]


def run_block_at(
    model: EditableModel, layer: int, pieces: Sequence[tuple[Tensor, Segment, Where]]
) -> Tensor:
    """Run one block on several segments, its MLP once, and only where it is wanted.

    Parameters
    ----------
    layer : int
        The block.
    pieces : Sequence[tuple[Tensor, Segment, Where]]
        Hidden states ``(rows, length, d)`` that enter the block, their segment, and the wanted
        positions as ``(rows, columns)``.

    Returns
    -------
    Tensor
        Hidden states ``(wanted, d)`` of all pieces, in order.
    """
    if not model.family.norm_2:
        return torch.cat(
            [
                take(run_blocks(model, hidden, part, layer, layer + 1)[0], where)
                for hidden, part, where in pieces
            ]
        )
    below, attended = [], []
    for hidden, part, where in pieces:
        output = attend(model, layer, hidden, part, Attended(part.memory))
        below.append(take(hidden, where).to(output.device))
        attended.append(take(output, where))
    entering = torch.cat(below)
    middle = entering + carried(model, layer, "after_attention", torch.cat(attended))
    change = run_mlp(model, layer, entering if model.family.parallel else middle)
    return middle + carried(model, layer, "after_mlp", change)


def remember_block(
    model: EditableModel, hidden: Tensor, part: Segment, layer: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return the keys and values of one block, without its MLP where the family allows it."""
    if not model.family.norm_2:
        return run_blocks(model, hidden, part, layer, layer + 1)[1]
    attended = Attended(part.memory)
    attend(model, layer, hidden, part, attended)
    return attended.recorded


def attend(
    model: EditableModel, layer: int, hidden: Tensor, part: Segment, attended: Attended
) -> Tensor:
    """Return what the attention of a block puts out, ``(rows, length, d)``."""
    block = model.blocks[layer]
    attention: nn.Module = block.get_submodule(model.family.attention)
    output: Tensor = attention(
        block.get_submodule(model.family.norm_1)(placed(hidden, block)),
        **_arguments(model, layer, part, attended),
    )[0]
    return output


def run_mlp(model: EditableModel, layer: int, entering: Tensor) -> Tensor:
    """Normalise ``(..., d)`` and return what the MLP of a block puts out."""
    block = model.blocks[layer]
    hidden: Tensor = block.get_submodule(model.family.norm_2)(entering)
    for name in model.family.mlp_modules:
        hidden = block.get_submodule(name)(hidden)
    return hidden


def carried(
    model: EditableModel, layer: int, norm: Literal["after_attention", "after_mlp"], hidden: Tensor
) -> Tensor:
    """Carry a part's output ``(..., d)`` through the norm behind it, where there is one."""
    name: str = getattr(model.family, norm)
    if not name:
        return hidden
    normed: Tensor = model.blocks[layer].get_submodule(name)(hidden)
    return normed


def _arguments(
    model: EditableModel, layer: int, part: Segment, attended: Attended
) -> dict[str, Any]:
    own = dict(part.arguments[model.attention_kinds[layer]])
    return {**placed(own, model.blocks[layer]), model.family.cache: attended}

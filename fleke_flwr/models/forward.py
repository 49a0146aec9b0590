"""Run parts of a decoder: some blocks, some positions, with earlier positions remembered.

Exact for causal decoders: what a position computes depends on earlier positions only through
their keys and values, so those are computed once and every later pass covers just the positions
that change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.models.hooks import enter_blocks
from fleke_flwr.models.loading import EditableModel


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
        layers = {
            layer: (keys[index], values[index]) for layer, (keys, values) in self.layers.items()
        }
        return Memory(layers, self.valid[index])

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
        past_keys, past_values = self.memory.layers[layer_idx]
        return torch.cat([past_keys, keys], 2), torch.cat([past_values, values], 2)


@dataclass(frozen=True)
class Segment:
    """Rows of consecutive positions that are computed together; padding is on the right.

    Parameters
    ----------
    places : Mapping[str, Any]
        How blocks of this family know the positions.
    mask : Tensor
        Added to the attention scores, ``(rows, 1, length, past + length)``.
    memory : Memory or None
        The positions before.
    """

    places: Mapping[str, Any]
    mask: Tensor
    memory: Memory | None

    def rows(self, index: Tensor) -> Segment:
        """Take some rows."""
        places = {name: _take(value, index) for name, value in self.places.items()}
        return Segment(places, self.mask[index], self.memory.rows(index) if self.memory else None)


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
    return hidden, Segment(places, _mask(hidden, memory), memory)


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
        output = model.blocks[layer](
            hidden,
            attention_mask=part.mask,
            past_key_values=attended,
            use_cache=False,
            **part.places,
        )
        hidden = output[0] if isinstance(output, tuple) else output
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
    family = model.family
    if not family.norm_2:
        return torch.cat(
            [
                run_blocks(model, hidden, part, layer, layer + 1)[0][where]
                for hidden, part, where in pieces
            ]
        )
    block = model.blocks[layer]
    attended = [
        (hidden + _attend(model, layer, hidden, part, Attended(part.memory)))[where]
        for hidden, part, where in pieces
    ]
    middle = torch.cat(attended)
    change: Tensor = block.get_submodule(family.mlp)(block.get_submodule(family.norm_2)(middle))
    return middle + change


def remember_block(
    model: EditableModel, hidden: Tensor, part: Segment, layer: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return the keys and values of one block, without its MLP where the family allows it."""
    if not model.family.norm_2:
        return run_blocks(model, hidden, part, layer, layer + 1)[1]
    attended = Attended(part.memory)
    _attend(model, layer, hidden, part, attended)
    return attended.recorded


def _attend(
    model: EditableModel, layer: int, hidden: Tensor, part: Segment, attended: Attended
) -> Tensor:
    block = model.blocks[layer]
    attention: nn.Module = block.get_submodule(model.family.attention)
    output: Tensor = attention(
        block.get_submodule(model.family.norm_1)(hidden),
        attention_mask=part.mask,
        past_key_values=attended,
        **part.places,
    )[0]
    return output


def _mask(hidden: Tensor, memory: Memory | None) -> Tensor:
    rows, length = hidden.shape[:2]
    allowed = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
    allowed = allowed.expand(rows, length, length)
    if memory is not None:
        past = memory.valid[:, None, :].expand(rows, length, memory.valid.shape[1])
        allowed = torch.cat([past, allowed], 2)
    blocked = torch.finfo(hidden.dtype).min
    return torch.zeros(allowed.shape, dtype=hidden.dtype, device=hidden.device).masked_fill_(
        ~allowed, blocked
    )[:, None]


def _take(value: Any, index: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(_take(item, index) for item in value)
    return value[index]

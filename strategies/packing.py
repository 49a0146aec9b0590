"""Statistics by group as named tensors, for files.

Letters: ``U (d_in, r)`` factors of keys, ``F (d_out, r)`` of residuals; ``S``, ``B`` their sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fleke_flwr.types import LayerStatistics

Groups = Mapping[str, LayerStatistics]
_PARTS = ("keys", "residuals", "signs", "gram", "cross")


def pack_groups(groups: Groups) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the tensors of groups, named ``group/part``, and how many edits each counts."""
    tensors = {
        f"{group}/{part}": tensor
        for group, statistics in groups.items()
        for part in _PARTS
        if (tensor := getattr(statistics, part)) is not None
    }
    return tensors, {group: statistics.count for group, statistics in groups.items()}


def unpack_groups(
    tensors: Mapping[str, Tensor], counts: Mapping[str, Any]
) -> dict[str, LayerStatistics]:
    """Rebuild :func:`pack_groups`."""
    groups = {}
    for group, count in counts.items():
        named = {part: tensors.get(f"{group}/{part}") for part in _PARTS}
        found = {part: tensor for part, tensor in named.items() if tensor is not None}
        groups[group] = LayerStatistics(int(count), **found)
    return groups

"""Pure merging rules on updates: average, weighted average, sum, TIES.

An update is ``(d_out, d_in)``; rules that are linear keep it a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from fleke_flwr.types import LayerUpdate


def weighted_sum(updates: Sequence[LayerUpdate], weights: Sequence[float]) -> LayerUpdate:
    """Return ``sum_i w_i Delta_i`` in float64."""
    scaled = [
        update.to(torch.float64).scaled(weight)
        for update, weight in zip(updates, weights, strict=True)
    ]
    return reduce(add, scaled)


def ties(updates: Sequence[Tensor], density: float, scale: float) -> Tensor:
    """Merge by trimming, electing signs and averaging those that agree.

    Source: TIES-Merging (Yadav et al. 2023), algorithm 1, on one weight matrix at a time as in
    CollabEdit's experiments. Clients count equally. Departs from CollabEdit's released code, which
    computes this result, discards it, and adds client 0's update instead.

    Parameters
    ----------
    updates : Sequence[Tensor]
        ``Delta_i (d_out, d_in)``.
    density : float
        Share of entries of every update that survive the trimming, by magnitude.
    scale : float
        Factor on the merged update.

    Returns
    -------
    Tensor
        ``(d_out, d_in)`` in float64.
    """
    stacked = torch.stack([update.to(torch.float64).flatten() for update in updates])
    trimmed = torch.stack([_largest(row, density) for row in stacked])
    total = trimmed.sum(dim=0)
    majority = torch.sign(total.sum())
    elected = torch.where(total == 0, majority, torch.sign(total))
    agreeing = trimmed * (torch.sign(trimmed) == elected)
    count = (agreeing != 0).sum(dim=0).clamp(min=1)
    return (scale * agreeing.sum(dim=0) / count).reshape(updates[0].shape)


def _largest(row: Tensor, density: float) -> Tensor:
    """Keep the ``density`` share of entries that is largest in magnitude."""
    kept = int(density * row.numel())
    if kept >= row.numel():
        return row
    result = torch.zeros_like(row)
    places = row.abs().topk(kept).indices
    result[places] = row[places]
    return result

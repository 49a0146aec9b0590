"""Which layers to edit, from where the last subject token's MLPs carry the fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PEAK_SHARE = 0.5
SEVERED_SHARE = 0.05


@dataclass(frozen=True)
class Suggestion:
    """A range of layers, and how it came about.

    Parameters
    ----------
    layers : tuple[int, ...]
        Ascending and contiguous; target vectors go to the last.
    peak : int
        Where restoring MLPs helps most.
    is_severed : bool
        Whether severed traces have set the last layer; otherwise it is the peak.
    """

    layers: tuple[int, ...]
    peak: int
    is_severed: bool


def suggest_layers(
    mlp: Sequence[float], block: Sequence[float] = (), severed: Sequence[float] = ()
) -> Suggestion | None:
    """Suggest layers by the curves of the last subject token; nothing where no MLP has an effect.

    The first layer is that of the contiguous layers up to the peak of ``mlp`` whose effect is at
    least half of the peak's. The last is the peak (as in ROME), or with severed traces the first
    layer from the peak on behind which MLPs do not matter any more (as in MEMIT): severing all
    later ones takes at most 5 % of what restoring the block gives.

    The papers read both from figures; the two shares are ours. Where no later layer keeps
    95 %, the peak is the last.

    Parameters
    ----------
    mlp, block, severed : Sequence[float]
        Average indirect effect by layer of the kinds ``mlp``, ``block`` and ``severed-mlp``; the
        last two are both needed, or none.
    """
    peak = max(range(len(mlp)), key=lambda layer: mlp[layer], default=0)
    if not mlp or mlp[peak] <= 0:
        return None
    first = peak
    while first > 0 and mlp[first - 1] >= PEAK_SHARE * mlp[peak]:
        first -= 1
    ends = [
        layer
        for layer in range(peak, min(len(block), len(severed)))
        if block[layer] > 0 and block[layer] - severed[layer] <= SEVERED_SHARE * block[layer]
    ]
    last = ends[0] if ends else peak
    return Suggestion(tuple(range(first, last + 1)), peak, bool(ends))

"""Which kinds of attention the blocks of a model have, and how far each of them looks back."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from fleke_flwr.errors import UnsupportedModelError

FULL, SLIDING = "full_attention", "sliding_attention"


def kinds_of(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the kind of attention of every block, in transformers' own words.

    Raises
    ------
    UnsupportedModelError
        If a block looks back in another way, whose mask this package does not know.
    """
    count = int(config.num_hidden_layers)
    named = getattr(config, "layer_types", None)
    if named is None:
        sliding = getattr(config, "sliding_window", None) is not None
        return (SLIDING if sliding else FULL,) * count
    others = sorted(set(named) - {FULL, SLIDING})
    if others:
        raise UnsupportedModelError(
            f"blocks of type {config.model_type!r} with {', '.join(others)} cannot be edited; "
            f"only {FULL} and {SLIDING} are known"
        )
    return tuple(named[:count])


def mask_of(config: PreTrainedConfig, kind: str, hidden: Tensor, past: Tensor | None) -> Tensor:
    """Return what is added to the scores of one kind of attention.

    Parameters
    ----------
    kind : str
        One of :func:`kinds_of`.
    hidden : Tensor
        States ``(rows, length, d)`` of consecutive positions, padded on the right.
    past : Tensor or None
        Which columns of the positions before count, ``(rows, past)``; together they must be all
        of them, as distances are counted in valid columns.

    Returns
    -------
    Tensor
        ``(rows, 1, length, past + length)``, in the format of ``hidden``.
    """
    rows, length = hidden.shape[:2]
    own = torch.ones(rows, length, dtype=torch.bool, device=hidden.device)
    valid = own if past is None else torch.cat([past.to(hidden.device), own], 1)
    columns = torch.arange(valid.shape[1], device=hidden.device)
    before = columns <= columns[-length:, None]
    allowed = valid[:, None, :] & before
    if kind == SLIDING:
        place = valid.cumsum(1)
        distance = place[:, -length:, None] - place[:, None, :]
        allowed &= distance < int(config.sliding_window)
    blocked = torch.finfo(hidden.dtype).min
    mask = torch.zeros(allowed.shape, dtype=hidden.dtype, device=hidden.device)
    return mask.masked_fill_(~allowed, blocked)[:, None]

"""Low-rank residual blocks that begin as the identity.

Letters: ``w`` width, ``r`` rank, ``m`` modules that share the block; ``x (tokens, w)``,
``A (w, r)``, ``B (r, w)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRankBlock(nn.Module):
    """What the two kinds of blocks share: ``x A B + bias``, and a scale and shift per module.

    ``B``, bias and shift begin at zero and scale at one, so that the block is the identity. ``A``
    is drawn with deviation ``w ** -0.5``, not one as in the papers' codes: with Adam that only
    changes which learning rate is right, and ``A`` learns as fast as ``B``.

    Parameters
    ----------
    width, rank, modes : int
        ``w``, ``r`` and ``m``.
    generator : torch.Generator
        Draws ``A``.
    """

    def __init__(self, width: int, rank: int, modes: int, generator: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(width, rank, generator=generator) * width**-0.5
        self.first = nn.Parameter(drawn)
        self.second = nn.Parameter(torch.zeros(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(modes, width))
        self.shift = nn.Parameter(torch.zeros(modes, width))

    def inner(self, rows: Tensor) -> Tensor:
        """Return ``x A B + bias``."""
        return rows @ self.first @ self.second + self.bias


class MalmenBlock(LowRankBlock):
    """``x + scale * relu(x A B + bias) + shift`` (MALMEN's ``nets.py``)."""

    def forward(self, rows: Tensor, mode: int) -> Tensor:
        """Transform ``(tokens, w)`` for the module of number ``mode``."""
        # Unlike relu, clamp passes a gradient at zero, where every entry begins.
        return rows + self.scale[mode] * self.inner(rows).clamp(min=0) + self.shift[mode]


class MendBlock(LowRankBlock):
    """``x + relu(scale * (x A B + bias) + shift)`` (MEND's ``IDMLP``)."""

    def forward(self, rows: Tensor, mode: int) -> Tensor:
        """Transform ``(tokens, w)`` for the module of number ``mode``."""
        return rows + (self.scale[mode] * self.inner(rows) + self.shift[mode]).clamp(min=0)

"""The ridge solve of MALMEN and its gradient, without a graph through the solve.

Letters: ``t`` tokens; ``K (t, d_in)`` keys, ``D (t, d_out)`` wanted changes of the output, one row
per token; ``kappa`` the ridge constant, ``A = K^T K + kappa I``; ``Delta (d_out, d_in)``, the
change of the weight, is ``D^T K A^-1``.

Source: MALMEN (Tan et al. 2024, arXiv 2311.04661), section 3.2: gradients reach the hyper-network
through ``D`` and ``kappa`` alone, so the language model and the hyper-network are never
differentiated at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fleke_flwr.factoring import cholesky


class Ridge:
    """``A^-1`` of one module, factored once; in float64.

    With fewer tokens than ``d_in`` the ``t x t`` form is factored (Woodbury), which MALMEN's code
    does not do.

    Parameters
    ----------
    keys : Tensor
        ``K (t, d_in)``; no tokens are legal.
    kappa : float
        Above zero.
    """

    def __init__(self, keys: Tensor, kappa: float) -> None:
        self.keys = keys.to(torch.float64)
        self.kappa = kappa
        tokens, d_in = self.keys.shape
        self.is_dual = tokens < d_in
        gram = self.keys @ self.keys.T if self.is_dual else self.keys.T @ self.keys
        gram.diagonal().add_(kappa)
        self.factor = cholesky(gram)[0]

    def change(self, desired: Tensor) -> Tensor:
        """Return ``Delta (d_out, d_in)`` for ``D (t, d_out)``."""
        wanted = desired.to(torch.float64)
        if self.is_dual:
            return torch.cholesky_solve(wanted, self.factor).T @ self.keys
        return torch.cholesky_solve(self.keys.T @ wanted, self.factor).T

    def backward(self, change: Tensor, gradient: Tensor) -> tuple[Tensor, float]:
        """Return the loss's gradients with respect to ``D`` and ``theta = log kappa``.

        With ``M = A^-1 (dLoss/dDelta)^T`` they are ``K M`` and ``-kappa <M, Delta^T>``.

        Parameters
        ----------
        change, gradient : Tensor
            ``Delta`` and ``dLoss/dDelta``, ``(d_out, d_in)``.
        """
        right = gradient.to(torch.float64).T
        if self.is_dual:
            inner = self.keys.T @ torch.cholesky_solve(self.keys @ right, self.factor)
            solved = (right - inner) / self.kappa
        else:
            solved = torch.cholesky_solve(right, self.factor)
        return self.keys @ solved, -self.kappa * float((solved * change.T).sum())

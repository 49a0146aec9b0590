"""AlphaEdit: edits in the directions that ordinary keys hardly use (Fang et al., 2025).

Letters: ``K (d_in, n)`` keys, ``R (d_out, n)`` residuals, ``S = K K^T``; ``Q (d_in, k)``
eigenvectors of the unweighted second moment of ordinary keys, ``P = Q Q^T``; ``M`` the sum of
``K K^T`` over past edits; ``a`` the ridge ``l2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fleke_flwr.editors.base import Moments
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.stored import QuietBlock, spectrum
from fleke_flwr.errors import ConfigError
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.values import Scalar, one_of

_RULES = ("eigenvalue", "trace")


class AlphaEdit(Memit):
    """MEMIT's targets and keys, written only where the second moment of ordinary keys is small.

    Implementation based on https://arxiv.org/abs/2410.02355 and the authors' released code, which
    solves ``(P (S + M) + a I) Delta^T = P K R^T``, a matrix that is not symmetric. The same update
    is ``Delta = R K^T Q (Q^T (S + M) Q + a I)^-1 Q^T``: the ridge kernel with a prior whose inverse
    is ``Q Q^T / a``. It depends on a batch by ``S`` and ``R K^T`` alone, so sums over clients are
    as exact as MEMIT's, and all of it is symmetric and solved in ``k`` coordinates in float64
    (the released code solves in float32).

    ``nullspace-threshold`` is the eigenvalue below which a direction may be used, ``l2`` is ``a``.
    The published 0.02 and 10 belong to the moments of large models; elsewhere the same eigenvalue
    can free hardly any direction of one layer and nearly all of the next. With
    ``nullspace-rule=trace``, which is ours, the quietest directions are taken that together hold
    that share of the trace: the part of an ordinary key, squared, that an edit can touch at all,
    whatever the length of keys. ``M`` is what ``memory = dynamic`` keeps, with weight 1 as
    published; the released code always keeps it.
    """

    options: ClassVar[Mapping[str, Scalar]] = {
        "nullspace-threshold": 0.02,
        "nullspace-rule": "eigenvalue",
        "l2": 10.0,
    }
    measured: ClassVar[bool] = False

    @property
    def target_recipe(self) -> tuple[str, ...]:
        """Take MEMIT's."""
        return Memit(self.spec).target_recipe

    def check(self, model: EditableModel) -> None:
        """Refuse parameters without meaning.

        Raises
        ------
        ConfigError
            If a number is not above 0, or the rule unknown.
        """
        super().check(model)
        one_of("edit.options: nullspace-rule", self.text("nullspace-rule"), _RULES)
        for name in ("nullspace-threshold", "l2"):
            if self.number(name) <= 0:
                raise ConfigError(
                    f"edit.options: {name} = {self.number(name):g}: need a number above 0"
                )

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        """Return ``C^-1 = Q Q^T / a`` of every module.

        The eigenvectors are found here, once, and kept in files beside the moments.

        Raises
        ------
        ConfigError
            If no direction of a module, or every one, lies below the threshold.
        """
        found, weight = moments(), self.number("l2")
        ranks = {module: self._rank(module, spectrum(found, module).values) for module in found}
        return {
            module: Prior.of([QuietBlock(found, module, rank, weight)])
            for module, rank in ranks.items()
        }

    @property
    def memory_weight(self) -> float:
        """Past edits' keys count as much as those of the batch."""
        return 1.0

    def _rank(self, module: str, values: Tensor) -> int:
        """Count the eigenvalues ``(d_in,)``, ascending, of directions that may be used."""
        threshold, rule = self.number("nullspace-threshold"), self.text("nullspace-rule")
        heights = values.cumsum(0) / values.sum() if rule == "trace" else values
        rank = int(torch.searchsorted(heights, threshold))
        if 0 < rank < len(values):
            return rank
        low, middle, high = (float(heights[i]) for i in (0, len(values) // 2, -1))
        measure = "shares of the trace, summed up," if rule == "trace" else "eigenvalues"
        raise ConfigError(
            f"edit.options: nullspace-threshold = {threshold:g} leaves "
            f"{'every' if rank else 'no'} direction of {module} free: its {measure} run from "
            f"{low:.3g} to {high:.3g}; half of the directions lie below {middle:.3g}, for example "
            f"nullspace-threshold={middle:.2g}"
        )

"""AdaPLE: PMET's targets under objectives that also push away from the old value.

Letters: ``K (d_in, n)`` keys, ``W`` the weight, ``V = W K`` what it puts out, ``Z`` target vectors,
``R = Z - V``; ``C (d_in, d_in)`` the prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from fleke_flwr.editors.base import Readings, Targets
from fleke_flwr.editors.pmet import Pmet
from fleke_flwr.errors import ConfigError
from fleke_flwr.models import EditableModel
from fleke_flwr.values import Scalar, one_of

_OBJECTIVES = ("memit", "adaple_paper", "forget_beta")


class AdaPLE(Pmet):
    """PMET with a choice of what the edited layers are asked for.

    ``objective`` is one of

    ``memit``
        ``Delta = R K^T (C + K K^T)^-1``: PMET itself, and the default.
    ``adaple_paper``
        ``Delta = (Z - 3 V) K^T (C + 2 K K^T)^-1``, the update that the paper derives, here for
        comparison. It cannot edit: as ``C`` goes to 0 the layer puts out ``(Z - V) / 2``, so not
        even a single edit reaches its target. The system behind it asks for minus the old value;
        it is not the solution of the objective that the paper states, whose quadratic terms in
        ``K`` cancel and whose stationary point is ``Delta C = R K^T``.
    ``forget_beta``
        ``Delta = R K^T (C + (1 - beta) K K^T)^-1`` with ``beta = forget``, from 0 to below 1: what
        stays sound of the idea. It minimises the ridge loss minus ``beta |(W + Delta) K - V|^2``,
        which is convex below 1. As ``C`` goes to 0 the layer puts out ``V + R / (1 - beta)``,
        further from the old value than the target is. 0 is ``memit`` to the bit.

    Every one is the ridge kernel with keys and residuals scaled, so sums over clients are exact.
    The paper's rules for updates that follow one another are ``fleke_flwr.fusion``; its algorithm
    adds the layers' outputs up in a running sum, where here the hidden states are read again.
    """

    options: ClassVar[Mapping[str, Scalar]] = {"objective": "memit", "forget": 0.0}

    @property
    def target_recipe(self) -> tuple[str, ...]:
        """Take PMET's."""
        return Pmet(self.spec).target_recipe

    def check(self, model: EditableModel) -> None:
        """Refuse an unknown objective, or a weight that it has no use for.

        Raises
        ------
        ConfigError
            If the objective is unknown, or ``forget`` out of range or given to another objective.
        """
        super().check(model)
        one_of("edit.options: objective", self.text("objective"), _OBJECTIVES)
        forget = self.number("forget")
        if not 0 <= forget < 1:
            raise ConfigError(
                f"edit.options: forget = {forget:g}: need a number from 0 to below 1; from 1 on "
                "the objective has no minimum"
            )
        if forget and self.text("objective") != "forget_beta":
            raise ConfigError(
                f"edit.options: forget = {forget:g} has no effect with objective = "
                f"{self.text('objective')}; set objective=forget_beta"
            )

    @property
    def is_plain(self) -> bool:
        """Whether the objective is MEMIT's."""
        return self.text("objective") == "memit"

    def residuals(self, targets: Targets, readings: Readings) -> Tensor:
        """Return ``Z - V``, or ``Z - 3 V`` of the paper."""
        residuals = super().residuals(targets, readings)
        if self.text("objective") == "adaple_paper":
            return residuals - 2 * readings.hidden
        return residuals

    def system(self, keys: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``sqrt(w) K`` and ``R / sqrt(w)``, whose sums are ``w K K^T`` and ``R K^T``."""
        weight = self._weight
        if weight == 1.0:
            return keys, residuals
        root = math.sqrt(weight)
        return keys * root, residuals / root

    @property
    def _weight(self) -> float:
        """How many times ``K K^T`` counts."""
        if self.text("objective") == "adaple_paper":
            return 2.0
        return 1.0 - self.number("forget")

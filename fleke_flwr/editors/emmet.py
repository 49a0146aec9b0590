"""EMMET: MEMIT with an equality constraint instead of a preference (Gupta et al., 2024).

Letters: ``K (d_in, n)`` keys, ``R (d_out, n)`` residuals, ``C (d_in, d_in)`` the weighted
covariance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from fleke_flwr.editors.memit import Memit
from fleke_flwr.errors import ConfigError
from fleke_flwr.models import EditableModel
from fleke_flwr.values import Scalar


class Emmet(Memit):
    """MEMIT's targets and keys, and a solution that writes them exactly as ``equality`` goes to 0.

    Implementation based on https://arxiv.org/abs/2403.14236 and the authors' released code. The
    update is ``R (K^T C^-1 K + eps I)^-1 K^T C^-1``, which is MEMIT's with ``eps C`` in the place
    of ``C``: sums over clients are therefore as exact as MEMIT's. ``equality`` is ``eps``.

    Differs from the released code, which adds ``eps`` only from two requests on and inverts a
    singular matrix approximately: what a client contributes must not depend on how many requests
    it happens to hold, and with ``eps`` always there nothing is singular, however often a subject
    comes. It edits one layer in the paper; here as many as the recipe names.
    """

    options: ClassVar[Mapping[str, Scalar]] = {"equality": 0.1}

    @property
    def target_recipe(self) -> tuple[str, ...]:
        """Take MEMIT's."""
        return Memit(self.spec).target_recipe

    def check(self, model: EditableModel) -> None:
        """Refuse a weight that is not positive.

        Raises
        ------
        ConfigError
            If ``equality`` is not above 0.
        """
        super().check(model)
        if self.number("equality") <= 0:
            raise ConfigError(
                f"edit.options: equality = {self.number('equality'):g}: need a number above 0; "
                "the smaller it is, the more exactly targets are written"
            )

    @property
    def prior_weight(self) -> float:
        """How many times the covariance counts: ``eps lambda``."""
        return self.number("equality") * self.spec.ridge_weight

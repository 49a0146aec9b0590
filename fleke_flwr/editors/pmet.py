"""PMET: precise model editing in a transformer (Li et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fleke_flwr.editors import keys, targets
from fleke_flwr.editors.base import Editor, Readings, Targets
from fleke_flwr.editors.entry import AttentionAndMlp
from fleke_flwr.editors.problem import Terms
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest

_SILENT = Silent()
_KNOWN_WEIGHT = 0.1
_KNOWN_DIVERGENCE = 0.01


class Pmet(Editor):
    """Targets at the MLP of the last edited layer, found together with a change of its attention.

    Implementation based on https://arxiv.org/abs/2308.08742 and the authors' released code. Two
    vectors are optimised, each within its own ball: one added to the attention's output, one to
    the MLP's. Only the MLP's becomes a target; what the attention was given lets the MLP's vector
    hold the new fact alone, and is then dropped. Residuals are taken at the MLP's output, also
    for the layers below, and spread by square roots.

    Differs from the released code, which can write both into the weights but by default writes
    the MLP alone, in offering only that; in comparing the likeliest token with the target's
    position by position instead of the two means of probabilities, which are equal exactly when
    all positions are but for rounding; and in never forming an inverse. Modes that write all
    layers at once are ours, see :meth:`total`.
    """

    def targets(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress = _SILENT
    ) -> Targets:
        """Optimise both vectors of all requests together; return the MLP's.

        Raises
        ------
        StatisticsError
            If a loss becomes NaN or infinite.
        UnsupportedModelError
            If the family's blocks are only known as a whole.
        """
        return targets.optimise_targets(
            model, self.spec, requests, progress, AttentionAndMlp(), known_or_low_loss
        )

    def readings(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
        intended: Tensor | None = None,
    ) -> Readings:
        """Read the context-averaged keys, and the MLP's output at the last edited layer."""
        return keys.read(model, self.spec, requests, layers, "mlp", intended)

    def share(self, index: int, count: int) -> float:
        """Return ``1 / sqrt(count - index)``, the square-root spread."""
        return 1.0 / math.sqrt(count - index)

    def total(self, count: int) -> float:
        """Return the sum of the shares.

        What lower layers write hardly shows at the MLP's output, so layer after layer the shares
        are taken of nearly the same residual, and the residual stream gets their sum: 1 for one
        layer, 2.3 for three. At once the layers must write as much; with the residual taken only
        once the edits do not show, because the attention's vector is missing.
        """
        return sum(self.share(index, count) for index in range(count))


def known_or_low_loss(spec: EditSpec, terms: Terms, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Stop below ``spec.stop_loss``, or as soon as a request is known and little else has changed.

    A request is known when the target's tokens are the likeliest everywhere. Its likelihood then
    counts for a tenth in the next iteration, and it stops once the divergence is at most 0.01: as
    in the released code the divergence of the loss, with ``kl_weight`` in it.
    """
    known = terms.missed() == 0
    weight = torch.where(known, _KNOWN_WEIGHT, torch.ones_like(loss))
    return (loss < spec.stop_loss) | (known & (terms.divergence <= _KNOWN_DIVERGENCE)), weight

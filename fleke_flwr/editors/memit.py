"""MEMIT: mass editing of a transformer's memory (Meng et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fleke_flwr.editors import keys, targets
from fleke_flwr.editors.base import Editor, Readings, Targets
from fleke_flwr.editors.entry import BlockOutput
from fleke_flwr.editors.problem import Terms
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest

_SILENT = Silent()


class Memit(Editor):
    """Target vectors at the last edited block, written into the MLP projections of several blocks.

    Implementation based on https://arxiv.org/abs/2210.07229 and the authors' released code; see
    ``targets`` and ``keys`` for where the two differ and which is followed.
    """

    def targets(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress = _SILENT
    ) -> Targets:
        """Optimise all target vectors together (eq. 16)."""
        return targets.optimise_targets(
            model, self.spec, requests, progress, BlockOutput(), low_loss
        )

    def readings(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
        intended: Tensor | None = None,
    ) -> Readings:
        """Read the context-averaged keys (eq. 18) and the hidden states."""
        return keys.read(model, self.spec, requests, layers, "block", intended)


def low_loss(spec: EditSpec, _: Terms, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Stop below ``spec.stop_loss``; the likelihood always counts in full."""
    return loss < spec.stop_loss, torch.ones_like(loss)

"""The contract of an editor, and the registry of editors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.registry import Registry
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest

_SILENT = Silent()


@dataclass(frozen=True)
class Targets:
    """What the last edited layer should put out at the subjects' last tokens.

    Which output is meant, the block's (MEMIT) or its MLP's (PMET), is the editor's choice.

    Parameters
    ----------
    vectors : Tensor
        Target vectors ``z (n, d)``.
    initial : Tensor
        The same outputs before, ``(n, d)``.
    losses : Tensor
        Loss of each request when its optimisation stopped, ``(n,)``.
    steps : Tensor
        Optimiser steps each request took, ``(n,)``.
    """

    vectors: Tensor
    initial: Tensor
    losses: Tensor
    steps: Tensor

    def rows(self, index: Sequence[int]) -> Targets:
        """Take some requests."""
        chosen = torch.tensor(list(index), dtype=torch.long)
        return Targets(
            self.vectors[chosen], self.initial[chosen], self.losses[chosen], self.steps[chosen]
        )


@dataclass(frozen=True)
class Readings:
    """What a model computes for requests now, at the subjects' last tokens.

    Parameters
    ----------
    keys : Mapping[int, Tensor]
        Inputs of the edited projections by layer, ``K (d_in, n)``, averaged over contexts.
    hidden : Tensor
        The outputs that targets are compared with, for the bare prompt, ``(d, n)``.
    """

    keys: Mapping[int, Tensor]
    hidden: Tensor


class Editor(ABC):
    """Turns requests into target vectors, keys and residuals; never changes the model.

    Parameters
    ----------
    spec : EditSpec
        The recipe, equal on all clients.
    """

    def __init__(self, spec: EditSpec) -> None:
        self.spec = spec

    @abstractmethod
    def targets(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress = _SILENT
    ) -> Targets:
        """Find the target vector of every request on the model as it stands."""

    @abstractmethod
    def readings(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
        intended: Tensor | None = None,
    ) -> Readings:
        """Read keys of ``layers`` and the hidden states on the model as it stands.

        ``intended (n, d)``, if given, is added behind every edited layer below the highest that is
        read, at the subject's last token: what those layers are meant to write.
        """

    def share(self, index: int, count: int) -> float:
        """Return the part of the remaining residual that layer ``index`` of ``count`` takes."""
        return 1.0 / (count - index)

    def total(self, count: int) -> float:
        """Return how many times the residual ``count`` layers write when they write at once.

        Once, where every layer's share lessens the residual that the next one sees.
        """
        return 1.0

    def residuals(self, targets: Targets, readings: Readings) -> Tensor:
        """Return ``R (d, n)``: how far the hidden states are from their targets."""
        return targets.vectors.to(readings.hidden).T - readings.hidden


EDITORS: Registry[Editor] = Registry(
    "editor",
    Editor,  # type: ignore[type-abstract]  # only ever compared with
    "fleke_flwr.editors",
)
EDITORS.add("memit", "fleke_flwr.editors.memit:Memit")
EDITORS.add("pmet", "fleke_flwr.editors.pmet:Pmet")

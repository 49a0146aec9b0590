"""The contracts of editors, and the registry of editors.

Three kinds give three things: an :class:`Editor` target vectors, from which statistics follow in
every mode; a :class:`StatisticsEditor` the statistics at once; an :class:`UpdateEditor` an update
and nothing that could be added up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fleke_flwr.config import TARGET_SETTINGS
from fleke_flwr.editors.covariance import priors
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.modes import MODES
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.registry import Registry
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest, LayerStatistics, LayerUpdate
from fleke_flwr.values import Scalar

_SILENT = Silent()

Moments = Callable[[], Mapping[str, Tensor]]
"""Computes, or finds, the second moments ``E[k k^T] (d_in, d_in)`` of the edited modules."""


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


class EditMethod:
    """What every editor has, whatever it turns requests into; never changes the model.

    Parameters
    ----------
    spec : EditSpec
        The recipe, equal on all clients.

    Attributes
    ----------
    modes : tuple[str, ...]
        Ways through the layers that make sense; a run in another mode takes the first of these.
    settings : tuple[str, ...]
        Settings of ``[edit]`` that a recipe must give; the others are 0 in it.
    options : Mapping[str, Scalar]
        Parameters of this editor alone, with their defaults, whose types count.
    measured : bool
        Whether the prior is the covariance, against which one client's part can be bounded.
    """

    modes: ClassVar[tuple[str, ...]] = MODES
    settings: ClassVar[tuple[str, ...]] = TARGET_SETTINGS
    options: ClassVar[Mapping[str, Scalar]] = {}
    measured: ClassVar[bool] = True

    def __init__(self, spec: EditSpec) -> None:
        self.spec = spec

    def option(self, name: str) -> Scalar:
        """Return a parameter of this editor: the recipe's, or the default."""
        return self.spec.options.get(name, self.options[name])

    def number(self, name: str) -> float:
        """Return a parameter that is a number."""
        return float(self.option(name))

    def text(self, name: str) -> str:
        """Return a parameter that is a word."""
        return str(self.option(name))

    def check(self, model: EditableModel) -> None:
        """Refuse a model, or parameters, that this editor cannot work with.

        Called before anybody is asked for anything.
        """
        self.modules(model)

    def modules(self, model: EditableModel) -> tuple[str, ...]:
        """Return the names of the modules whose weights are edited, in order."""
        return tuple(model.module_name(layer) for layer in self.spec.layers)

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        """Return what the edited modules already store, by module.

        :attr:`prior_weight` times the covariance unless an editor has another; ``moments`` may be
        left uncalled.
        """
        return priors(moments(), self.prior_weight)

    @property
    def prior_weight(self) -> float:
        """How many times the covariance counts in the prior."""
        return self.spec.ridge_weight

    @property
    def target_recipe(self) -> tuple[str, ...]:
        """Name what targets depend on beside model, request and the shared settings.

        An editor that takes another one's targets as they are returns that one's, so that they are
        optimised once for both.
        """
        own = (f"{name}={self.option(name)}" for name in sorted(self.options))
        return (type(self).__module__, type(self).__qualname__, *own)

    @property
    def memory_weight(self) -> float:
        """Weight of past edits' keys where ``memory`` is ``dynamic`` and nothing is set."""
        return self.prior_weight


class StatisticsEditor(EditMethod, ABC):
    """Turns requests into statistics at once, every layer by itself."""

    modes: ClassVar[tuple[str, ...]] = ("frozen",)

    @abstractmethod
    def statistics(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress = _SILENT
    ) -> dict[str, LayerStatistics]:
        """Return statistics as factors by module; a request's part depends on itself alone."""


class UpdateEditor(EditMethod, ABC):
    """Turns requests into an update of the weights; no two updates add up to their union's."""

    modes: ClassVar[tuple[str, ...]] = ("local_sequential",)

    @abstractmethod
    def updates(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        priors: Mapping[str, Prior],
        progress: Progress = _SILENT,
    ) -> dict[str, LayerUpdate]:
        """Return the change ``(d_out, d_in)`` of every edited module, in float64."""


class Editor(EditMethod, ABC):
    """Locates, then edits: turns requests into target vectors, keys and residuals."""

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

    @property
    def is_plain(self) -> bool:
        """Whether keys and residuals enter the kernel as they are, as memory vectors do."""
        return True

    def system(self, keys: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters the kernel in the place of ``K (d_in, n)`` and ``R (d_out, n)``."""
        return keys, residuals


EDITORS: Registry[EditMethod] = Registry("editor", EditMethod, "fleke_flwr.editors")
EDITORS.add("adaple", "fleke_flwr.editors.adaple:AdaPLE")
EDITORS.add("alphaedit", "fleke_flwr.editors.alphaedit:AlphaEdit")
EDITORS.add("emmet", "fleke_flwr.editors.emmet:Emmet")
EDITORS.add("ft", "fleke_flwr.editors.ft:FineTuning")
EDITORS.add("ft_w", "fleke_flwr.editors.ft:FineTuningW")
EDITORS.add("malmen", "fleke_flwr.editors.malmen:Malmen")
EDITORS.add("memit", "fleke_flwr.editors.memit:Memit")
EDITORS.add("mend", "fleke_flwr.editors.mend:Mend")
EDITORS.add("pmet", "fleke_flwr.editors.pmet:Pmet")
EDITORS.add("rome", "fleke_flwr.editors.rome:Rome")

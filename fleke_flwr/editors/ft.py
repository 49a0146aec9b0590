"""Fine-tuning on the edits alone: FT, with or without a norm constraint, and FT-W.

The baselines of ROME (Meng et al., 2022) and MEMIT (Meng et al., 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fleke_flwr.editors.base import Moments, UpdateEditor
from fleke_flwr.editors.whole_text import OBJECTIVES, Texts, begin_texts
from fleke_flwr.errors import ConfigError, StatisticsError
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.models.weights import substituted
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.types import EditRequest, LayerUpdate
from fleke_flwr.values import Scalar, one_of

_SILENT = Silent()
_DECAYS = ("none", "power")
_PHASE = "fine-tuning"
_DECAY_EXPONENT, _DECAY_LOG_SCALE = -0.87028798, 0.15589562
# Steps of weights are a thousandth of those of target vectors, for which settings are shared.
_LARGEST_RATE = 0.05


class FineTuning(UpdateEditor):
    """Adam on the edited projections, until the requests are likely enough (FT).

    Implementation based on https://arxiv.org/abs/2202.05262 and the released code of MEMIT
    (``baselines/ft``): up to ``edit.steps`` passes over the requests in their order, in batches of
    ``batch``; no step for a batch whose loss is below ``edit.stop-loss``, and the end when the mean
    of a pass is. With ``norm-constraint`` every weight stays within that distance of where it
    began (FT-L).

    Which loss is the option ``objective``. ``target``, the default, predicts the target's tokens
    one after the other. ``last``, the released one, asks for all of them at the prompt's last
    token: the same for a target of one token, but of several it can learn neither the order nor
    more than equal probabilities, so that its loss never falls below the log of their number.

    Differs from the released code in leaving biases alone: an update is a matrix.
    """

    settings: ClassVar[tuple[str, ...]] = ("learning_rate", "steps", "stop_loss")
    measured: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Scalar]] = {
        "objective": "target",
        "batch": 64,
        "norm-constraint": 0.0,
        "decay": "none",
    }

    def check(self, model: EditableModel) -> None:
        """Refuse unknown parameters, and steps as long as those of target vectors.

        Raises
        ------
        ConfigError
            If a parameter has no such value, or the learning rate is too large for weights.
        ModelError
            If the model has no such layer.
        """
        super().check(model)
        one_of("edit.options: objective", self.text("objective"), OBJECTIVES)
        one_of("edit.options: decay", self.text("decay"), _DECAYS)
        if self.number("batch") < 1:
            raise ConfigError(
                f"edit.options: batch = {self.number('batch'):g}: give at least 1 request"
            )
        if self.number("norm-constraint") < 0:
            raise ConfigError(
                f"edit.options: norm-constraint = {self.number('norm-constraint'):g}: "
                "give the largest change of a weight, or 0 for no bound"
            )
        if not 0 < self.spec.learning_rate <= _LARGEST_RATE:
            raise ConfigError(
                f"edit.learning-rate = {self.spec.learning_rate:g} for {self.spec.editor}, which "
                f"moves weights: give more than 0 and at most {_LARGEST_RATE}, such as 5e-4, in a "
                f"table [{self.spec.editor}] of the preset or the model's settings"
            )

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        """Return none: fine-tuning knows nothing of what the weights store."""
        return {}

    def updates(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        priors: Mapping[str, Prior],
        progress: Progress = _SILENT,
    ) -> dict[str, LayerUpdate]:
        """Return what training adds to the weights, dense.

        Gradients and changes are kept in float32 at least. A model in a narrower format computes
        with weights that are rounded as those of the edited model will be.

        Raises
        ------
        StatisticsError
            If the loss becomes NaN or infinite.
        """
        self.check(model)
        changes = {
            module: torch.zeros(
                model.shape_of(module), dtype=model.working_dtype, device=model.device
            ).requires_grad_()
            for module in self.modules(model)
        }
        self._train(model, requests, changes, progress)
        return {
            module: LayerUpdate(change.detach().to("cpu", torch.float64))
            for module, change in changes.items()
        }

    def _train(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        changes: Mapping[str, Tensor],
        progress: Progress,
    ) -> None:
        progress.start(_PHASE, self.spec.steps * len(requests))
        optimizer = torch.optim.Adam(changes.values(), lr=self.spec.learning_rate)
        decay = self._decay(len(requests))
        batches = list(self._batches(model, requests))
        for epoch in range(self.spec.steps if requests else 0):
            total = 0.0
            for count, texts in batches:
                optimizer.zero_grad()
                loss = _backward(model, changes, count, texts)
                total += loss * count
                if loss >= self.spec.stop_loss:
                    _add_decay(model, changes, decay)
                    optimizer.step()
                    self._constrain(changes)
                progress.advance(_PHASE, count)
            if total / len(requests) < self.spec.stop_loss:
                progress.advance(_PHASE, (self.spec.steps - epoch - 1) * len(requests))
                break

    def _batches(
        self, model: EditableModel, requests: Sequence[EditRequest]
    ) -> Iterator[tuple[int, list[Texts]]]:
        """Yield the requests of each step, in their order: how many, and their texts."""
        size = int(self.number("batch"))
        for first in range(0, len(requests), size):
            chosen = requests[first : first + size]
            texts = begin_texts(
                model, chosen, self.spec.layers[0], self.text("objective"), self.spec.batch_tokens
            )
            yield len(chosen), texts

    def _decay(self, count: int) -> float:
        return power_decay(count) if self.text("decay") == "power" and count else 0.0

    @torch.no_grad()
    def _constrain(self, changes: Mapping[str, Tensor]) -> None:
        bound = self.number("norm-constraint")
        if bound:
            for change in changes.values():
                change.clamp_(-bound, bound)


class FineTuningW(FineTuning):
    """Fine-tuning of whole blocks with weight decay (FT-W).

    Implementation based on https://arxiv.org/abs/2210.07229 and its released code. All matrices of
    the blocks of ``edit.layers`` are edited, and the decay follows the power law of
    :func:`power_decay`; ``decay = none`` gives what the released code does, which reads its law
    from JSON as a list, expects a tuple, and so never applies it.

    Differs from the released code in finding the matrices as the modules of exactly these blocks,
    where it looks for ``h.2`` anywhere in a name and trains ``h.21``, too; and in leaving biases
    and norms alone. The decay acts on the weights, not on their change, as Adam's does there.
    """

    options: ClassVar[Mapping[str, Scalar]] = {**FineTuning.options, "decay": "power"}

    def modules(self, model: EditableModel) -> tuple[str, ...]:
        """Return every matrix of the blocks, in their order."""
        return tuple(
            f"{model.family.blocks}.{layer}.{name}"
            for layer in self.spec.layers
            for name, module in model.part(layer, "block").named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        )


def power_decay(count: int) -> float:
    """Return FT-W's weight decay for so many requests, ``n^a e^b`` (released code of MEMIT).

    Parameters
    ----------
    count : int
        At least 1.
    """
    return float(count**_DECAY_EXPONENT * math.exp(_DECAY_LOG_SCALE))


def _add_decay(model: EditableModel, changes: Mapping[str, Tensor], decay: float) -> None:
    """Add the gradient of ``decay / 2 |W + change|^2``, as Adam's ``weight_decay`` does."""
    if not decay:
        return
    for module, change in changes.items():
        assert change.grad is not None  # of a backward pass just made
        edited = model.weight_of(module).to(change) + change.detach()
        change.grad.add_(edited, alpha=decay)


def _backward(
    model: EditableModel, changes: Mapping[str, Tensor], count: int, texts: Sequence[Texts]
) -> float:
    """Add the gradient of the mean loss over ``count`` texts to the changes'; return the loss."""
    total = 0.0
    for some in texts:
        with substituted(model.model, changes):
            loss = some.loss(model) / count
        if not bool(torch.isfinite(loss)):
            raise StatisticsError(
                f"the loss of {count} requests became NaN or infinite while fine-tuning; lower "
                "edit.learning-rate or edit.steps, or use model.dtype = float32"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total

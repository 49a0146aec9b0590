"""Adam on the changes of many requests at once, each with a stop of its own.

Requests do not influence one another: losses are summed, Adam works element by element, and a
request that has stopped is frozen and soon taken out.

Letters: ``n`` requests, ``p`` places that are changed, ``d`` residual width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.editors.problem import Problem, Terms, measure
from fleke_flwr.errors import StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.spec import EditSpec

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_WORTH_COMPACTING = 0.95

Judge = Callable[[EditSpec, Terms, Tensor], tuple[Tensor, Tensor]]
"""From the terms and the losses ``(n,)``: which requests stop ``(n,)``, and the weight of each
one's likelihood in the next iteration ``(n,)`` (1 in the first)."""


@dataclass(frozen=True)
class Descent:
    """Where the optimisation of a batch ended.

    Parameters
    ----------
    change : Tensor
        To be added at the places, ``(n, p, d)``.
    losses : Tensor
        Loss of each request when it stopped, ``(n,)``.
    steps : Tensor
        Optimiser steps each request took, ``(n,)``.
    """

    change: Tensor
    losses: Tensor
    steps: Tensor


def descend(model: EditableModel, spec: EditSpec, problem: Problem, judge: Judge) -> Descent:
    """Optimise the changes of one batch, from 0.

    Raises
    ------
    StatisticsError
        If a loss becomes NaN or infinite.
    """
    count = len(problem.initial)
    active = torch.arange(count, device=model.device)
    weight = problem.initial.new_ones(count)
    found = Descent(torch.zeros_like(problem.initial), torch.zeros_like(weight), active * 0)
    adam = _Adam(found.change, spec, spec.clamp * problem.initial.norm(dim=-1))
    running = torch.ones_like(active, dtype=torch.bool)
    for step in range(spec.steps):
        change = found.change[active].requires_grad_()
        terms = measure(model, spec, problem, change)
        loss = terms.loss(weight)
        found.losses[active[running]] = _finite(loss.detach())[running]
        stopped, weight = judge(spec, terms, loss.detach())
        running &= ~stopped
        if step == spec.steps - 1 or not running.any():
            break
        (gradient,) = torch.autograd.grad(loss.sum(), change)
        adam.step(active[running], gradient[running], step + 1)
        found.steps[active[running]] = step + 1
        if running.float().mean() < _WORTH_COMPACTING:
            problem, active, weight = problem.of(running), active[running], weight[running]
            running = torch.ones_like(active, dtype=torch.bool)
    return found


def _finite(loss: Tensor) -> Tensor:
    if not torch.isfinite(loss).all():
        raise StatisticsError(
            f"the loss of {int((~torch.isfinite(loss)).sum())} target vectors became NaN or "
            "infinite; lower edit.learning-rate or edit.clamp, or use model.dtype = float32"
        )
    return loss


class _Adam:
    """Adam on the vectors of chosen requests, each kept within a ball around 0.

    Parameters
    ----------
    vectors : Tensor
        Changed in place, ``(n, p, d)``.
    spec : EditSpec
        For the learning rate.
    radius : Tensor
        Largest norm of each vector, ``(n, p)``.
    """

    def __init__(self, vectors: Tensor, spec: EditSpec, radius: Tensor) -> None:
        self.vectors = vectors
        self.rate = spec.learning_rate
        self.radius = radius
        self.mean = torch.zeros_like(vectors)
        self.square = torch.zeros_like(vectors)

    def step(self, rows: Tensor, gradient: Tensor, count: int) -> None:
        """Take step number ``count`` (from 1) on some requests."""
        mean = _BETA_1 * self.mean[rows] + (1 - _BETA_1) * gradient
        square = _BETA_2 * self.square[rows] + (1 - _BETA_2) * gradient**2
        self.mean[rows], self.square[rows] = mean, square
        spread = square.sqrt() / math.sqrt(1 - _BETA_2**count) + _EPSILON
        moved = self.vectors[rows] - self.rate / (1 - _BETA_1**count) * mean / spread
        norm = moved.norm(dim=-1)
        limit = self.radius[rows]
        factor = torch.where(norm > limit, limit / norm, torch.ones_like(norm))
        self.vectors[rows] = moved * factor[..., None]

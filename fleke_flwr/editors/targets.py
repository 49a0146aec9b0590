"""Target vectors for many requests at once (MEMIT eq. 16, ROME eq. 4).

Exact shortcuts: the hidden states up to the edited block are computed once, and of each
sequence only the positions from the subject's last token on are computed again, in the
blocks above, with the keys and values before them remembered. Requests do not influence one
another: losses are summed, Adam works element by element, and a request that has reached its
stopping loss is taken out.

Letters: ``n`` requests, ``d`` residual width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.editors.base import Targets
from fleke_flwr.editors.problem import Problem, losses, prepare
from fleke_flwr.editors.rows import Row, target_rows
from fleke_flwr.errors import StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_WORTH_COMPACTING = 0.95


def optimise_targets(
    model: EditableModel, spec: EditSpec, requests: Sequence[EditRequest], progress: Progress
) -> Targets:
    """Optimise the target vectors of all requests.

    Adam moves a vector that is added to the output of block ``spec.layers[-1]`` at the subject's
    last token, so that the new object becomes likely in all contexts while what the model takes
    the subject for stays. Order of the steps and constants are those of MEMIT's released code;
    departs from it in building token ids instead of decoding and encoding again.

    Parameters
    ----------
    model : EditableModel
        Left unchanged.
    spec : EditSpec
        The recipe; ``batch_tokens`` bounds the tokens of a batch.
    requests : Sequence[EditRequest]
        May be empty.
    progress : Progress
        Told of every finished request, phase ``"targets"``.

    Raises
    ------
    StatisticsError
        If a loss becomes NaN or infinite.
    """
    progress.start("targets", len(requests))
    model.module_name(spec.layers[-1])
    found = _Found.empty(model, len(requests))
    for batch in _batches(model, spec, requests):
        items = torch.tensor([rows[0].item for rows in batch])
        problem = prepare(model, spec.layers[-1], batch)
        descent = _descend(model, spec, problem)
        found.vectors[items] = (problem.initial + descent.vectors).cpu()
        found.initial[items] = problem.initial.cpu()
        found.losses[items] = descent.losses.cpu()
        found.steps[items] = descent.steps.cpu()
        progress.advance("targets", len(batch))
    return Targets(found.vectors, found.initial, found.losses, found.steps)


def _batches(
    model: EditableModel, spec: EditSpec, requests: Sequence[EditRequest]
) -> Iterator[list[list[Row]]]:
    """Cut the requests by the token budget, sorted so that tails of equal length meet."""
    items = [
        target_rows(model, item, request, spec.contexts) for item, request in enumerate(requests)
    ]
    items.sort(key=lambda rows: (rows[0].tail, len(rows[0].ids)))
    # A row holds whole texts here and only their tails in the passes that count.
    limit = min(spec.batch_tokens, 2 * model.batch_limit(spec.batch_tokens))
    batch: list[list[Row]] = []
    used = 0
    for rows in items:
        size = sum(len(row.ids) for row in rows)
        if batch and used + size > limit:
            yield batch
            batch, used = [], 0
        batch.append(rows)
        used += size
    if batch:
        yield batch


@dataclass
class _Found:
    """Results being filled in; ``vectors`` are changes while a batch is optimised."""

    vectors: Tensor
    initial: Tensor
    losses: Tensor
    steps: Tensor

    @classmethod
    def empty(cls, model: EditableModel, count: int, device: str = "cpu") -> _Found:
        matrix = torch.zeros(count, model.d_model, dtype=model.working_dtype, device=device)
        steps = torch.zeros(count, dtype=torch.long, device=device)
        return cls(matrix, matrix.clone(), matrix.new_zeros(count), steps)


def _descend(model: EditableModel, spec: EditSpec, problem: Problem) -> _Found:
    """Optimise the changes of one batch; a request that stops is frozen and soon taken out."""
    found = _Found.empty(model, len(problem.initial), str(model.device))
    adam = _Adam(found.vectors, spec, spec.clamp * problem.initial.norm(dim=1))
    active = torch.arange(len(problem.initial), device=model.device)
    running = torch.ones_like(active, dtype=torch.bool)
    for step in range(spec.steps):
        change = found.vectors[active].requires_grad_()
        loss = losses(model, spec, problem, change)
        found.losses[active[running]] = _finite(loss.detach())[running]
        running &= loss.detach() >= spec.stop_loss
        if step == spec.steps - 1 or not running.any():
            break
        (gradient,) = torch.autograd.grad(loss.sum(), change)
        adam.step(active[running], gradient[running], step + 1)
        found.steps[active[running]] = step + 1
        if running.float().mean() < _WORTH_COMPACTING:
            problem, active = problem.of(running), active[running]
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
    """Adam on chosen rows of a matrix, each kept within a ball around 0.

    Parameters
    ----------
    vectors : Tensor
        Changed in place, ``(n, d)``.
    spec : EditSpec
        For the learning rate.
    radius : Tensor
        Largest norm of each row, ``(n,)``.
    """

    def __init__(self, vectors: Tensor, spec: EditSpec, radius: Tensor) -> None:
        self.vectors = vectors
        self.rate = spec.learning_rate
        self.radius = radius
        self.mean = torch.zeros_like(vectors)
        self.square = torch.zeros_like(vectors)

    def step(self, rows: Tensor, gradient: Tensor, count: int) -> None:
        """Take step number ``count`` (from 1) on some rows."""
        mean = _BETA_1 * self.mean[rows] + (1 - _BETA_1) * gradient
        square = _BETA_2 * self.square[rows] + (1 - _BETA_2) * gradient**2
        self.mean[rows], self.square[rows] = mean, square
        spread = square.sqrt() / math.sqrt(1 - _BETA_2**count) + _EPSILON
        moved = self.vectors[rows] - self.rate / (1 - _BETA_1**count) * mean / spread
        norm = moved.norm(dim=1)
        limit = self.radius[rows]
        factor = torch.where(norm > limit, limit / norm, torch.ones_like(norm))
        self.vectors[rows] = moved * factor[:, None]

"""The loss of target vectors, for many requests, at the cost of the positions that change.

Letters: ``n`` requests, ``d`` residual width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from fleke_flwr.editors.rows import KL, Row, begin
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import (
    Memory,
    Segment,
    remember_block,
    run_block_at,
    run_blocks,
    subsegment,
)
from fleke_flwr.spec import EditSpec


@dataclass(frozen=True)
class Group:
    """Rows whose tails, the positions from the subject's last token on, have one length.

    Parameters
    ----------
    tail : Tensor
        What leaves the edited block unedited, ``(rows, length, d)``.
    part : Segment
        The tails, with everything before them remembered for the blocks above.
    item : Tensor
        Whose vector is added at column 0, ``(rows,)``.
    read : tuple[Tensor, Tensor]
        Rows and columns that are read out, ``(reads,)`` each.
    label : Tensor
        Token that each read should predict; ``KL`` where the whole distribution counts.
    weight : Tensor
        Part of each read in its request's mean; 0 where the whole distribution counts.
    """

    tail: Tensor
    part: Segment
    item: Tensor
    read: tuple[Tensor, Tensor]
    label: Tensor
    weight: Tensor

    @property
    def owner(self) -> Tensor:
        """Which item each read belongs to, ``(reads,)``."""
        return self.item[self.read[0]]

    def of(self, kept: Tensor) -> Group:
        """Keep the rows of the items where ``kept`` is true, renumbering both."""
        rows = kept[self.item]
        reads = rows[self.read[0]]
        index = rows.nonzero().squeeze(1)
        return Group(
            self.tail[index],
            self.part.rows(index),
            (kept.cumsum(0) - 1)[self.item[index]],
            ((rows.cumsum(0) - 1)[self.read[0][reads]], self.read[1][reads]),
            self.label[reads],
            self.weight[reads],
        )


@dataclass(frozen=True)
class Problem:
    """Requests whose target vectors are optimised together.

    Parameters
    ----------
    groups : tuple[Group, ...]
        Their rows.
    initial : Tensor
        Hidden states of the bare prompts at the edited block, ``(n, d)``.
    before : Tensor
        Log probabilities after the subject on the unedited model, ``(n, V)``.
    """

    groups: tuple[Group, ...]
    initial: Tensor
    before: Tensor

    def of(self, kept: Tensor) -> Problem:
        """Keep the requests where ``kept`` is true."""
        groups = (group.of(kept) for group in self.groups)
        return Problem(
            tuple(group for group in groups if len(group.item)),
            self.initial[kept],
            self.before[kept],
        )


@torch.no_grad()
def prepare(model: EditableModel, layer: int, batch: Sequence[Sequence[Row]]) -> Problem:
    """Run everything that does not depend on the target vectors.

    Parameters
    ----------
    layer : int
        The block whose output is changed.
    batch : Sequence[Sequence[Row]]
        The rows of each request, the bare prompt first.
    """
    rows = [replace(row, item=item) for item, rows in enumerate(batch) for row in rows]
    rows.sort(key=lambda row: row.tail)
    share = 1.0 / (len(batch[0]) - 1)
    groups = []
    initial = torch.empty(len(batch), model.d_model, dtype=model.working_dtype, device=model.device)
    for _, members in groupby(rows, key=lambda row: row.tail):
        alike = list(members)
        group = _group(model, layer, alike, share)
        bare = torch.tensor([row.context == 0 for row in alike], device=model.device)
        initial[group.item[bare]] = group.tail[bare, 0].to(initial.dtype)
        groups.append(group)
    return Problem(tuple(groups), initial, _before(model, layer, groups, initial))


def losses(model: EditableModel, spec: EditSpec, problem: Problem, change: Tensor) -> Tensor:
    """Return the loss of each request (MEMIT's released ``compute_z``).

    The mean negative log likelihood of the target over contexts and target tokens, plus
    ``kl_weight * KL(edited || unedited)`` after the subject, plus
    ``weight_decay * ||change|| / ||initial||^2``.

    Parameters
    ----------
    change : Tensor
        Added to the hidden states, ``(n, d)``.

    Returns
    -------
    Tensor
        ``(n,)``, differentiable in ``change``.
    """
    logs = _log_probabilities(model, spec.layers[-1], problem.groups, change)
    owner = torch.cat([group.owner for group in problem.groups])
    label = torch.cat([group.label for group in problem.groups])
    weight = torch.cat([group.weight for group in problem.groups])
    wanted = logs.gather(1, label.clamp(min=0)[:, None]).squeeze(1)
    likelihood = change.new_zeros(len(change)).index_add(0, owner, wanted * weight)
    whole = (label == KL).nonzero().squeeze(1)
    edited, owner = logs[whole], owner[whole]
    gap = (edited.exp() * (edited - problem.before[owner])).sum(1)
    divergence = change.new_zeros(len(change)).index_add(0, owner, gap)
    # vector_norm has gradient 0 at 0, which is where the optimisation starts.
    size = torch.linalg.vector_norm(change, dim=1)
    scale = torch.linalg.vector_norm(problem.initial, dim=1)
    decay: Tensor = size / scale.square() * spec.weight_decay
    return decay + divergence * spec.kl_weight - likelihood


def _group(model: EditableModel, layer: int, rows: Sequence[Row], share: float) -> Group:
    begun = begin(model, rows, model.num_layers)
    hidden, _ = run_blocks(model, begun.hidden, begun.part, 0, layer + 1)
    columns = begun.subject[:, None] + torch.arange(rows[0].tail, device=model.device)
    memory = begun.part.memory.above(layer) if begun.part.memory else None
    before = int(begun.subject.max())
    if before:
        own = subsegment(model, begun.positions[:, :before], memory)
        valid = torch.arange(before, device=model.device) < begun.subject[:, None]
        later = Memory(_remember(model, hidden[:, :before], own, layer + 1), valid)
        memory = memory.followed_by(later) if memory else later
    number = torch.arange(len(rows), device=model.device)[:, None]
    read, label, weight = _reads(model, rows, share)
    return Group(
        tail=hidden[number, columns],
        part=subsegment(model, begun.positions.gather(1, columns), memory),
        item=torch.tensor([row.item for row in rows], device=model.device),
        read=read,
        label=label,
        weight=weight,
    )


def _remember(
    model: EditableModel, hidden: Tensor, part: Segment, start: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return keys and values from block ``start`` to the last."""
    last = model.num_layers - 1
    if start > last:
        return {}
    hidden, recorded = run_blocks(model, hidden, part, start, last)
    return recorded | remember_block(model, hidden, part, last)


def _reads(
    model: EditableModel, rows: Sequence[Row], share: float
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    found: list[tuple[int, int, int, float]] = []
    for number, row in enumerate(rows):
        if row.context == KL:
            found.append((number, 0, KL, 0.0))
        first = row.tail - len(row.labels)
        found.extend(
            (number, first + offset, label, share / len(row.labels))
            for offset, label in enumerate(row.labels)
        )
    numbers, columns, labels, weights = zip(*found, strict=True)
    where = (
        torch.tensor(numbers, device=model.device),
        torch.tensor(columns, device=model.device),
    )
    weight = torch.tensor(weights, dtype=model.working_dtype, device=model.device)
    return where, torch.tensor(labels, device=model.device), weight


def _before(model: EditableModel, layer: int, groups: Sequence[Group], initial: Tensor) -> Tensor:
    holding = [group for group in groups if bool((group.label == KL).any())]
    logs = _log_probabilities(model, layer, holding, torch.zeros_like(initial))
    owner = torch.cat([group.owner for group in holding])
    whole = torch.cat([group.label for group in holding]) == KL
    before = logs.new_empty(len(initial), logs.shape[1])
    before[owner[whole]] = logs[whole]
    return before


def _log_probabilities(
    model: EditableModel, layer: int, groups: Sequence[Group], change: Tensor
) -> Tensor:
    """Return log probabilities ``(reads, V)`` of all groups, read out together."""
    last = model.num_layers - 1
    pieces = []
    for group in groups:
        first = group.tail[:, :1] + change[group.item].to(group.tail.dtype)[:, None]
        hidden = torch.cat([first, group.tail[:, 1:]], dim=1)
        if layer < last:
            hidden, _ = run_blocks(model, hidden, group.part, layer + 1, last)
        pieces.append((hidden, group.part, group.read))
    if layer < last:
        read = run_block_at(model, last, pieces)
    else:
        read = torch.cat([hidden[where] for hidden, _, where in pieces])
    logits: Tensor = model.logits(model.final_norm(read)).to(change.dtype)
    return logits.log_softmax(dim=1)

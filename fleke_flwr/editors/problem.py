"""The loss of target vectors, for many requests, at the cost of the positions that change.

Letters: ``n`` requests, ``p`` places that are changed, ``d`` residual width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from fleke_flwr.editors.entry import Entry
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
from fleke_flwr.models.placement import take
from fleke_flwr.spec import EditSpec


@dataclass(frozen=True)
class Group:
    """Rows whose tails, the positions from the subject's last token on, have one length.

    Parameters
    ----------
    entering : Tensor
        What the edited output is made of, at the subject's last token, ``(rows, q, d)``.
    rest : Tensor
        What leaves the edited block behind it, ``(rows, length - 1, d)``; no change reaches it.
    part : Segment
        The tails, with everything before them remembered for the blocks above.
    item : Tensor
        Whose changes enter, ``(rows,)``.
    read : tuple[Tensor, Tensor]
        Rows and columns that are read out, ``(reads,)`` each.
    label : Tensor
        Token that each read should predict; ``KL`` where the whole distribution counts.
    weight : Tensor
        Part of each read in its request's mean; 0 where the whole distribution counts.
    """

    entering: Tensor
    rest: Tensor
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
            take(self.entering, index),
            take(self.rest, index),
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
    entry : Entry
        Where the changes enter the edited block.
    groups : tuple[Group, ...]
        Their rows.
    initial : Tensor
        Unedited values at the places, for the bare prompts, ``(n, p, d)``.
    before : Tensor
        Log probabilities after the subject on the unedited model, ``(n, V)``.
    """

    entry: Entry
    groups: tuple[Group, ...]
    initial: Tensor
    before: Tensor

    def of(self, kept: Tensor) -> Problem:
        """Keep the requests where ``kept`` is true."""
        groups = (group.of(kept) for group in self.groups)
        return Problem(
            self.entry,
            tuple(group for group in groups if len(group.item)),
            self.initial[kept],
            self.before[kept],
        )


@dataclass(frozen=True)
class Terms:
    """What the loss of each request is made of, ``(n,)`` each, differentiable in the changes.

    Parameters
    ----------
    likelihood : Tensor
        Mean log likelihood of the target over contexts and target tokens.
    divergence : Tensor
        ``kl_weight * KL(edited || unedited)`` after the subject.
    decay : Tensor
        ``weight_decay * ||change|| / ||initial||^2``, summed over the places.
    missed : Callable[[], Tensor]
        Returns at how many target positions another token is likelier than the target's,
        ``(n,)``; computed on demand because it looks through all logits.
    """

    likelihood: Tensor
    divergence: Tensor
    decay: Tensor
    missed: Callable[[], Tensor]

    def loss(self, weight: Tensor) -> Tensor:
        """Return the loss of each request, its likelihood weighted by ``weight (n,)``."""
        return self.decay + self.divergence - self.likelihood * weight


@torch.no_grad()
def prepare(
    model: EditableModel, layer: int, batch: Sequence[Sequence[Row]], entry: Entry
) -> Problem:
    """Run everything that does not depend on the target vectors.

    Parameters
    ----------
    layer : int
        The block that is changed.
    batch : Sequence[Sequence[Row]]
        The rows of each request, the bare prompt first.
    entry : Entry
        Where in the block.
    """
    rows = [replace(row, item=item) for item, rows in enumerate(batch) for row in rows]
    rows.sort(key=lambda row: row.tail)
    share = 1.0 / (len(batch[0]) - 1)
    groups, found, owners = [], [], []
    for _, members in groupby(rows, key=lambda row: row.tail):
        alike = list(members)
        group, own = _group(model, layer, alike, share, entry)
        bare = torch.tensor([row.context == 0 for row in alike], device=model.device)
        found.append(take(own, bare).to(model.device, model.working_dtype))
        owners.append(group.item[bare])
        groups.append(group)
    initial = torch.cat(found)[torch.cat(owners).argsort()]
    before = _before(model, layer, entry, groups, torch.zeros_like(initial))
    return Problem(entry, tuple(groups), initial, before)


def measure(model: EditableModel, spec: EditSpec, problem: Problem, change: Tensor) -> Terms:
    """Return what the losses of all requests are made of (MEMIT's released ``compute_z``).

    Parameters
    ----------
    change : Tensor
        Added at the places, ``(n, p, d)``.
    """
    logs = _log_probabilities(model, spec.layers[-1], problem.entry, problem.groups, change)
    owner = torch.cat([group.owner for group in problem.groups])
    label = torch.cat([group.label for group in problem.groups])
    weight = torch.cat([group.weight for group in problem.groups])
    wanted = logs.gather(1, label.clamp(min=0)[:, None]).squeeze(1)
    nothing = change.new_zeros(len(change))

    def missed() -> Tensor:
        behind = (wanted.detach() < logs.detach().amax(1)) & (label != KL)
        return nothing.index_add(0, owner, behind.to(nothing))

    whole = (label == KL).nonzero().squeeze(1)
    edited, subject = logs[whole], owner[whole]
    gap = (edited.exp() * (edited - problem.before[subject])).sum(1)
    # vector_norm has gradient 0 at 0, which is where the optimisation starts.
    size = torch.linalg.vector_norm(change, dim=-1)
    scale = torch.linalg.vector_norm(problem.initial, dim=-1)
    decay: Tensor = size / scale.square() * spec.weight_decay
    return Terms(
        nothing.index_add(0, owner, wanted * weight),
        nothing.index_add(0, subject, gap) * spec.kl_weight,
        decay.sum(1),
        missed,
    )


def _group(
    model: EditableModel, layer: int, rows: Sequence[Row], share: float, entry: Entry
) -> tuple[Group, Tensor]:
    """Return a group and the unedited values ``(rows, p, d)`` at the places."""
    begun = begin(model, rows, model.num_layers)
    passage = entry.read(model, layer, begun)
    columns = begun.subject[:, None] + torch.arange(rows[0].tail, device=model.device)
    memory = begun.part.memory.above(layer) if begun.part.memory else None
    before = int(begun.subject.max())
    if before:
        own = subsegment(model, begun.positions[:, :before], memory)
        valid = torch.arange(before, device=model.device) < begun.subject[:, None]
        later = Memory(_remember(model, passage.hidden[:, :before], own, layer + 1), valid)
        memory = memory.followed_by(later) if memory else later
    number = torch.arange(len(rows), device=model.device)[:, None]
    read, label, weight = _reads(model, rows, share)
    group = Group(
        entering=passage.entering,
        rest=take(passage.hidden, (number, columns[:, 1:])),
        part=subsegment(model, begun.positions.gather(1, columns), memory),
        item=torch.tensor([row.item for row in rows], device=model.device),
        read=read,
        label=label,
        weight=weight,
    )
    return group, passage.initial


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


def _before(
    model: EditableModel, layer: int, entry: Entry, groups: Sequence[Group], unchanged: Tensor
) -> Tensor:
    holding = [group for group in groups if bool((group.label == KL).any())]
    logs = _log_probabilities(model, layer, entry, holding, unchanged)
    owner = torch.cat([group.owner for group in holding])
    whole = torch.cat([group.label for group in holding]) == KL
    before = logs.new_empty(len(unchanged), logs.shape[1])
    before[owner[whole]] = logs[whole]
    return before


def _log_probabilities(
    model: EditableModel, layer: int, entry: Entry, groups: Sequence[Group], change: Tensor
) -> Tensor:
    """Return log probabilities ``(reads, V)`` of some groups, read out together."""
    last = model.num_layers - 1
    pieces = []
    for group in groups:
        own = take(change, group.item).to(group.entering)
        first = entry.enter(model, layer, group.entering, own)
        hidden = torch.cat([first[:, None], group.rest], dim=1)
        if layer < last:
            hidden, _ = run_blocks(model, hidden, group.part, layer + 1, last)
        pieces.append((hidden, group.part, group.read))
    if layer < last:
        read = run_block_at(model, last, pieces)
    else:
        read = torch.cat([take(hidden, where) for hidden, _, where in pieces])
    logits = model.logits(model.final_norm(read)).to(change)
    return logits.log_softmax(dim=1)

"""The likelihood of targets after whole texts, for editors that change every position's states.

Exact shortcut: below the lowest edited block nothing changes, so its input is computed once; and
only the positions that are read go through the last block's MLP and the unembedding.

Letters: ``d`` residual width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fleke_flwr.editors.rows import Row, batches, target_rows
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import Segment, run_block_at, run_blocks, segment
from fleke_flwr.models.tokens import pad_batch
from fleke_flwr.types import EditRequest

OBJECTIVES = ("target", "last")


@dataclass(frozen=True)
class Texts:
    """Texts that are run together, already run up to the lowest edited block.

    Parameters
    ----------
    start : int
        That block.
    hidden : Tensor
        What enters it, ``(rows, length, d)``.
    part : Segment
        The texts, as a segment.
    read : tuple[Tensor, Tensor]
        Rows and columns that are read out, ``(reads,)`` each.
    label : Tensor
        Token that each read should predict, ``(reads,)``.
    weight : Tensor
        Part of each read in its text's mean, ``(reads,)``.
    """

    start: int
    hidden: Tensor
    part: Segment
    read: tuple[Tensor, Tensor]
    label: Tensor
    weight: Tensor

    def loss(self, model: EditableModel) -> Tensor:
        """Return the sum over texts of the mean negative log likelihood of their labels."""
        last = model.num_layers - 1
        hidden, _ = run_blocks(model, self.hidden, self.part, self.start, last)
        read = run_block_at(model, last, [(hidden, self.part, self.read)])
        logits = model.logits(model.final_norm(read)).to(self.weight)
        wanted = logits.log_softmax(dim=1).gather(1, self.label[:, None]).squeeze(1)
        return -(wanted * self.weight).sum()


@torch.no_grad()
def begin_texts(
    model: EditableModel,
    requests: Sequence[EditRequest],
    start: int,
    objective: str,
    batch_tokens: int,
) -> list[Texts]:
    """Run the texts of requests up to block ``start``, texts of like length together.

    Parameters
    ----------
    objective : {"target", "last"}
        What is read: the target's tokens one after the other behind the prompt and their
        predecessors (teacher forcing), or all of them, as a bag, at the prompt's last token.
    batch_tokens : int
        Upper bound of the tokens that are run together.
    """
    rows = [
        _text(target_rows(model, item, request, ("{}",))[0], objective)
        for item, request in enumerate(requests)
    ]
    found = []
    for alike in batches(rows, model.batch_limit(batch_tokens)):
        ids, _ = pad_batch(model, [row.ids for row in alike])
        columns = torch.arange(ids.shape[1], device=model.device)
        hidden, part = segment(model, ids, columns.expand(ids.shape), None)
        hidden, _ = run_blocks(model, hidden, part, 0, start)
        found.append(Texts(start, hidden, part, *_reads(model, alike, objective)))
    return found


def _text(row: Row, objective: str) -> Row:
    """Cut a row, which ends before the target's last token, to what the objective needs."""
    if objective == "target":
        return row
    return replace(row, ids=row.ids[: len(row.ids) - len(row.labels) + 1])


def _reads(
    model: EditableModel, rows: Sequence[Row], objective: str
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    numbers: list[int] = []
    columns: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for number, row in enumerate(rows):
        count, end = len(row.labels), len(row.ids)
        numbers += [number] * count
        columns += range(end - count, end) if objective == "target" else [end - 1] * count
        labels += row.labels
        weights += [1.0 / count] * count
    device = model.device
    where = (torch.tensor(numbers, device=device), torch.tensor(columns, device=device))
    weight = torch.tensor(weights, dtype=model.working_dtype, device=device)
    return where, torch.tensor(labels, device=device), weight

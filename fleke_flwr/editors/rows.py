"""Sequences to run for edit requests, and the beginnings they have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import Memory, Segment, run_blocks, segment
from fleke_flwr.models.tokens import (
    SLOT,
    encode_answer,
    fill,
    last_token_before,
    pad_batch,
    subject_position,
)
from fleke_flwr.types import EditRequest

KL_TEMPLATE = "{} is a"
KL = -1


@dataclass(frozen=True)
class Row:
    """One sequence of one request.

    Parameters
    ----------
    item : int
        Which request.
    context : int
        Which context template; ``KL`` for the sequence that holds the subject's meaning in place.
    ids : tuple[int, ...]
        Token ids.
    position : int
        Index of the subject's last token.
    labels : tuple[int, ...]
        Tokens that the last ``len(labels)`` positions should predict.
    """

    item: int
    context: int
    ids: tuple[int, ...]
    position: int
    labels: tuple[int, ...] = ()

    @property
    def tail(self) -> int:
        """Number of positions from the subject's last token on."""
        return len(self.ids) - self.position


def target_rows(
    model: EditableModel, item: int, request: EditRequest, contexts: Sequence[str]
) -> list[Row]:
    """Return the sequences that a target vector is optimised on, the bare prompt first.

    The target's tokens continue the prompt; the last one is only a label. Positions come from
    character offsets in the whole text, so no piece is tokenized apart from its neighbours.

    Raises
    ------
    RequestError
        If a text is too long, or the tokenizer cannot express the subject or the target.
    """
    rows = []
    for number, context in enumerate(contexts):
        text, end = fill(context.replace(SLOT, request.prompt), request.subject)
        ids, spans, first = encode_answer(model, text, request.target.strip())
        position = last_token_before(spans, end, request.subject)
        rows.append(Row(item, number, tuple(ids[:-1]), position, tuple(ids[first:])))
    ids, position = subject_position(model, KL_TEMPLATE, request.subject)
    return [*rows, Row(item, KL, tuple(ids[: position + 1]), position)]


def key_rows(
    model: EditableModel, item: int, request: EditRequest, contexts: Sequence[str]
) -> list[Row]:
    """Return the sequences that keys are read on: every context, up to the subject's last token."""
    rows = []
    for number, context in enumerate(contexts):
        ids, position = subject_position(
            model, context.replace(SLOT, request.prompt), request.subject
        )
        rows.append(Row(item, number, tuple(ids[: position + 1]), position))
    return rows


def batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Cut rows, sorted by length, into batches of at most ``tokens`` padded tokens."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batch and (len(batch) + 1) * len(row.ids) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@dataclass(frozen=True)
class Begun:
    """Rows of which the beginnings shared by all rows of a context are already computed.

    Parameters
    ----------
    hidden : Tensor
        Embedded rest of every row ``(rows, length, d)``, padded on the right.
    part : Segment
        The rest, as a segment.
    positions : Tensor
        Places of the rest in the text, ``(rows, length)``.
    subject : Tensor
        Column of the subject's last token, ``(rows,)``.
    """

    hidden: Tensor
    part: Segment
    positions: Tensor
    subject: Tensor

    @property
    def where(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the subjects' last tokens, ``(rows,)`` each."""
        return torch.arange(len(self.subject), device=self.subject.device), self.subject


def begin(model: EditableModel, rows: Sequence[Row], layers: int) -> Begun:
    """Compute the common beginning of each context's rows once, for the first ``layers`` blocks.

    Sampled prefixes are the same for all requests, so their keys and values are, too.
    """
    shared = {
        context: _common(tuple(row for row in rows if row.context == context))
        for context in sorted({row.context for row in rows})
    }
    memory = _remember(model, list(shared.values()), layers)
    number = {context: index for index, context in enumerate(shared)}
    index = torch.tensor([number[row.context] for row in rows], device=model.device)
    starts = torch.tensor([len(shared[row.context]) for row in rows], device=model.device)
    ids, _ = pad_batch(model, [row.ids[len(shared[row.context]) :] for row in rows])
    places = starts[:, None] + torch.arange(ids.shape[1], device=model.device)
    places = places.clamp(max=model.max_positions - 1)
    hidden, part = segment(model, ids, places, memory.rows(index) if memory else None)
    subject = torch.tensor([row.position for row in rows], device=model.device) - starts
    return Begun(hidden, part, places, subject)


def _common(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the tokens with which all rows begin, short of every subject's last token."""
    # Between the smallest and the largest row, all others begin like these two.
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    limit = min(row.position for row in rows)
    for index in range(limit):
        if first[index] != last[index]:
            return first[:index]
    return first[:limit]


def _remember(
    model: EditableModel, prefixes: Sequence[Sequence[int]], layers: int
) -> Memory | None:
    if not any(prefixes):
        return None
    ids, lengths = pad_batch(model, prefixes)
    columns = torch.arange(ids.shape[1], device=model.device)
    hidden, part = segment(model, ids, columns.expand(ids.shape), None)
    _, recorded = run_blocks(model, hidden, part, 0, layers)
    return Memory(recorded, columns < lengths[:, None])

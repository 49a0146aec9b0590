"""Target vectors for many requests at once (MEMIT eq. 16, ROME eq. 4).

Exact shortcuts: what no change reaches, the hidden states up to the edited block above all, is
computed once, and of each sequence only the positions from the subject's last token on are
computed again, with the keys and values before them remembered.

Letters: ``n`` requests, ``d`` residual width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fleke_flwr.editors.base import Targets
from fleke_flwr.editors.descent import Judge, descend
from fleke_flwr.editors.entry import Entry
from fleke_flwr.editors.problem import prepare
from fleke_flwr.editors.rows import Row, target_rows
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest


def optimise_targets(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    progress: Progress,
    entry: Entry,
    judge: Judge,
) -> Targets:
    """Optimise the target vectors of all requests.

    Adam moves vectors that are added inside or behind block ``spec.layers[-1]`` at the subject's
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
    entry : Entry
        Where the vectors are added; targets are those of its last place.
    judge : Judge
        When a request stops.

    Raises
    ------
    StatisticsError
        If a loss becomes NaN or infinite.
    UnsupportedModelError
        If blocks of this family do not have the places.
    """
    entry.check(model)
    progress.start("targets", len(requests))
    model.module_name(spec.layers[-1])
    vectors = torch.zeros(len(requests), model.d_model, dtype=model.working_dtype)
    initial, losses = torch.zeros_like(vectors), vectors.new_zeros(len(requests))
    steps = torch.zeros(len(requests), dtype=torch.long)
    for batch in _batches(model, spec, requests):
        items = torch.tensor([rows[0].item for rows in batch])
        problem = prepare(model, spec.layers[-1], batch, entry)
        found = descend(model, spec, problem, judge)
        vectors[items] = (problem.initial + found.change)[:, -1].cpu()
        initial[items] = problem.initial[:, -1].cpu()
        losses[items] = found.losses.cpu()
        steps[items] = found.steps.cpu()
        progress.advance("targets", len(batch))
    return Targets(vectors, initial, losses, steps)


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

"""Keys and hidden states at the subjects' last tokens (MEMIT, ``compute_ks``).

The bare prompt counts for one half, the sampled contexts share the other half equally, as in the
released code (the paper states a plain mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fleke_flwr.editors.base import Readings
from fleke_flwr.editors.rows import Row, batches, begin, key_rows
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import run_block_at, run_blocks
from fleke_flwr.models.hooks import captured_keys
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest


@torch.no_grad()
def read(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
) -> Readings:
    """Read keys of ``layers`` and the output of block ``spec.layers[-1]``.

    Nothing behind the subject matters to a causal model, so sequences end at its last token, and
    no pass goes higher than what is read from it.

    Parameters
    ----------
    requests : Sequence[EditRequest]
        ``n`` requests; may be empty.
    layers : Sequence[int]
        Whose keys are wanted.

    Returns
    -------
    Readings
        In float64, on the CPU: keys ``(d_in, n)`` by layer, hidden states ``(d, n)``.
    """
    wide = torch.float64
    keys = {
        layer: torch.zeros(len(requests), model.input_width(layer), dtype=wide) for layer in layers
    }
    hidden = torch.zeros(len(requests), model.d_model, dtype=wide)
    rows = [
        row
        for item, request in enumerate(requests)
        for row in key_rows(model, item, request, spec.contexts)
    ]
    bare = [row for row in rows if row.context == 0]
    others = [row for row in rows if row.context != 0]
    weights = (0.5, 0.5 / (len(spec.contexts) - 1)) if others else (1.0, 0.0)
    for part, weight, top in (
        (bare, weights[0], spec.layers[-1]),
        (others, weights[1], max(layers)),
    ):
        for batch in batches(part, model.batch_limit(spec.batch_tokens)):
            items = torch.tensor([row.item for row in batch])
            found, above = _read_batch(model, batch, layers, top)
            for layer in layers:
                keys[layer].index_add_(0, items, weight * found[layer].to("cpu", wide))
            if part is bare:
                hidden[items] = above.to("cpu", wide)
    return Readings({layer: matrix.T.contiguous() for layer, matrix in keys.items()}, hidden.T)


def _read_batch(
    model: EditableModel, rows: Sequence[Row], layers: Sequence[int], top: int
) -> tuple[dict[int, Tensor], Tensor]:
    """Return keys ``(rows, d_in)`` by layer and the output ``(rows, d)`` of block ``top``."""
    begun = begin(model, rows, top + 1)
    where = (torch.arange(len(rows), device=model.device), begun.subject)
    with captured_keys(model, layers) as captured:
        hidden, _ = run_blocks(model, begun.hidden, begun.part, 0, top)
        above = run_block_at(model, top, [(hidden, begun.part, where)])
    # The last block's MLP runs at the wanted positions only, so its keys have no columns.
    return {
        layer: keys if keys.ndim == 2 else keys[where] for layer, keys in captured.items()
    }, above

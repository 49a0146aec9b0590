"""Keys and hidden states at the subjects' last tokens (MEMIT, ``compute_ks``).

The bare prompt counts for one half, the sampled contexts share the other half equally, as in the
released code (the paper states a plain mean).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fleke_flwr.editors.base import Readings
from fleke_flwr.editors.rows import Begun, batches, begin, key_rows
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import run_block_at, run_blocks
from fleke_flwr.models.hooks import captured_keys, captured_outputs
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest

Place = Literal["block", "mlp"]


@torch.no_grad()
def read(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    place: Place = "block",
    intended: Tensor | None = None,
) -> Readings:
    """Read keys of ``layers`` and what block ``spec.layers[-1]``, or its MLP, puts out.

    Nothing behind the subject matters to a causal model, so sequences end at its last token, and
    no pass goes higher than what is read from it.

    Parameters
    ----------
    requests : Sequence[EditRequest]
        ``n`` requests; may be empty.
    layers : Sequence[int]
        Whose keys are wanted.
    place : {"block", "mlp"}
        Whose output the hidden states are: the whole block's (MEMIT) or the edited projection's,
        bias included (PMET).
    intended : Tensor or None
        ``(n, d)``, added at the subjects' last tokens behind every block of ``spec.layers`` below
        the highest that is run.

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
            begun = begin(model, batch, top + 1)
            steps = _steps(spec, top, None if intended is None else intended[items])
            found, outputs = _read_batch(model, begun, layers, steps)
            for layer in layers:
                keys[layer].index_add_(0, items, weight * found[layer].to("cpu", wide))
            if part is bare:
                hidden[items] = outputs[place].to("cpu", wide)
    return Readings({layer: matrix.T.contiguous() for layer, matrix in keys.items()}, hidden.T)


def _steps(spec: EditSpec, top: int, intended: Tensor | None) -> list[tuple[int, Tensor | None]]:
    """Return up to which block to run, and what to add there; the last is ``top`` itself."""
    stops = [] if intended is None else [layer for layer in spec.layers if layer < top]
    return [*((layer, intended) for layer in stops), (top, None)]


def _read_batch(
    model: EditableModel,
    begun: Begun,
    layers: Sequence[int],
    steps: Sequence[tuple[int, Tensor | None]],
) -> tuple[dict[int, Tensor], dict[Place, Tensor]]:
    """Return keys ``(rows, d_in)`` by layer and the outputs ``(rows, d)`` of the last block."""
    rows = torch.arange(len(begun.subject), device=model.device)
    where = (rows, begun.subject)
    hidden, first, (top, _) = begun.hidden, 0, steps[-1]
    modules = {"mlp": model.projection(top)}
    with captured_keys(model, layers) as captured, captured_outputs(modules) as outputs:
        for layer, added in steps[:-1]:
            hidden, _ = run_blocks(model, hidden, begun.part, first, layer + 1)
            if added is not None:
                hidden = hidden.index_put(where, added.to(hidden), accumulate=True)
            first = layer + 1
        hidden, _ = run_blocks(model, hidden, begun.part, first, top)
        above = run_block_at(model, top, [(hidden, begun.part, where)])

    def at_subject(found: Tensor) -> Tensor:
        # The last block's MLP runs at the wanted positions only, so nothing in it has columns.
        return found if found.ndim == 2 else found[where]

    keys = {layer: at_subject(found) for layer, found in captured.items()}
    return keys, {"block": above, "mlp": at_subject(outputs["mlp"])}

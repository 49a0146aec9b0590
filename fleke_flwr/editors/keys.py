"""Keys and hidden states at the subjects' last tokens (MEMIT, ``compute_ks``).

The bare prompt counts for one half, the sampled contexts share the other half equally, as in the
released code (the paper states a plain mean).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from fleke_flwr.editors.base import Readings
from fleke_flwr.editors.rows import Begun, batches, begin, key_rows
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import run_block_at, run_blocks
from fleke_flwr.models.hooks import added_outputs, captured_keys, captured_outputs
from fleke_flwr.models.placement import take
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
        bias included (PMET). With a norm behind the MLP both are the projection's, see
        :class:`~fleke_flwr.editors.entry.BlockOutput`.
    intended : Tensor or None
        ``(n, d)``, added at the subjects' last tokens to the edited projection's output in every
        block of ``spec.layers`` below the highest that is run.

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
            added = None if intended is None else intended[items]
            with _intended(model, spec.layers, top, begun, added):
                found, outputs = _read_batch(model, begun, layers, top)
            for layer in layers:
                keys[layer].index_add_(0, items, weight * found[layer].to("cpu", wide))
            if part is bare:
                hidden[items] = outputs[place].to("cpu", wide)
    return Readings({layer: matrix.T.contiguous() for layer, matrix in keys.items()}, hidden.T)


@contextmanager
def _intended(
    model: EditableModel, layers: Sequence[int], top: int, begun: Begun, added: Tensor | None
) -> Iterator[None]:
    """Add ``(rows, d)`` to what the edited projections below ``top`` put out."""
    if added is None:
        yield
        return
    modules = [model.projection(layer) for layer in layers if layer < top]
    with added_outputs(modules, begun.where, added):
        yield


def _read_batch(
    model: EditableModel, begun: Begun, layers: Sequence[int], top: int
) -> tuple[dict[int, Tensor], dict[Place, Tensor]]:
    """Return keys ``(rows, d_in)`` by layer and the outputs ``(rows, d)`` of block ``top``."""
    where = begun.where
    modules = {"mlp": model.projection(top)}
    with captured_keys(model, layers) as captured, captured_outputs(modules) as outputs:
        hidden, _ = run_blocks(model, begun.hidden, begun.part, 0, top)
        above = run_block_at(model, top, [(hidden, begun.part, where)])

    def at_subject(found: Tensor) -> Tensor:
        # The last block's MLP runs at the wanted positions only, so nothing in it has columns.
        return found if found.ndim == 2 else take(found, where)

    keys = {layer: at_subject(found) for layer, found in captured.items()}
    projected = at_subject(outputs["mlp"])
    return keys, {"block": projected if model.family.after_mlp else above, "mlp": projected}

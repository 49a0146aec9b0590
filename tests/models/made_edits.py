"""Made-up edits of tiny models, as products or dense."""

from __future__ import annotations

import torch

from fleke_flwr.models import EditableModel
from fleke_flwr.state import EditState
from fleke_flwr.types import LayerUpdate


def made_state(
    model: EditableModel, seed: int = 0, *, dense: bool = False, scale: float = 0.05
) -> EditState:
    """Return random updates of the first layers: rank 3, 4, ... with falling singular values."""
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for layer in range(3):
        rank, width = 3 + layer, model.input_width(layer)
        left = scale * torch.randn(model.d_model, rank, generator=generator, dtype=torch.float64)
        right = torch.randn(rank, width, generator=generator, dtype=torch.float64)
        update = LayerUpdate(left * 0.7 ** torch.arange(rank), right)
        update = LayerUpdate(update.dense()) if dense else update
        updates[model.module_name(layer)] = update.to(model.working_dtype)
    return EditState(model.fingerprint, 1, updates)

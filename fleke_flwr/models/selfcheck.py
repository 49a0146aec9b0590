"""Check on a few tokens that a family's row describes the model at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from fleke_flwr.errors import UnsupportedModelError
from fleke_flwr.models.forward import run_block_at, run_blocks, segment
from fleke_flwr.models.loading import EditableModel

_TOKENS = 4
# Half precision through many blocks leaves a few per cent; a forgotten scale or norm far more.
_TOLERANCE = 0.1


@torch.no_grad()
def check_row(model: EditableModel) -> None:
    """Compare the model run by its row with the model's own pass.

    Raises
    ------
    UnsupportedModelError
        If the two differ, or the blocks cannot be called as the row says.
    """
    d_out, _ = model.shape_of(model.module_name(0))
    if d_out != model.d_model:
        raise UnsupportedModelError(
            _refusal(model, f"{model.module_name(0)} puts out {d_out} numbers, not {model.d_model}")
        )
    ids = torch.arange(_TOKENS, device=model.device)[None] % int(model.config.vocab_size)
    expected = model.model(input_ids=ids, use_cache=False).logits[0].double().cpu()
    try:
        found = _by_row(model, ids).double().cpu()
    except (TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise UnsupportedModelError(_refusal(model, str(error))) from error
    difference = float((found - expected).norm() / expected.norm())
    if not difference <= _TOLERANCE:
        raise UnsupportedModelError(_refusal(model, f"logits differ by {difference:.2g} of theirs"))


def _by_row(model: EditableModel, ids: Tensor) -> Tensor:
    columns = torch.arange(ids.shape[1], device=model.device)
    hidden, part = segment(model, ids, columns[None], None)
    top = model.num_layers - 1
    hidden, _ = run_blocks(model, hidden, part, 0, top)
    hidden = run_block_at(model, top, [(hidden, part, (torch.zeros_like(columns), columns))])
    return model.logits(model.final_norm(hidden))


def _refusal(model: EditableModel, why: str) -> str:
    return (
        f"the row of type {model.family.model_type!r} in fleke_flwr/models/families.py does not "
        f"describe {model.name!r}: run by it, the model does not compute what it computes by "
        f"itself ({why}); correct the row, or edit another model"
    )

"""Which of a client's edits the shared model makes already.

Source: CollabEdit's remedy for overlap. The paper looks at the norm of the residual and calls an
edit known below 0.01; how fast a residual falls depends on the key's leverage
``q = sum_l k_l^T C_l^-1 k_l`` (one edit multiplies it by ``1/(1+q)``), so an absolute threshold
means another thing for every model. Here the residual is taken relative to that on the base model.

Letters: ``n`` requests, ``z`` target vectors on the base model, ``h`` hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.editors.base import Editor, Targets
from fleke_flwr.linalg import Prior
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.state import EditState
from fleke_flwr.types import EditRequest


@dataclass(frozen=True)
class Remaining:
    """What is left of edits on the shared model.

    Parameters
    ----------
    residual : Tensor
        ``|z - h_now| / |z - h_base|``, ``(n,)``; 0 where the base model asks for nothing.
    predicted : Tensor
        ``1 / (1 + q)``: what one edit alone leaves of its residual, ``(n,)``.
    """

    residual: Tensor
    predicted: Tensor


def remaining(
    editor: Editor,
    model: EditableModel,
    shared: EditState,
    requests: Sequence[EditRequest],
    targets: Targets,
    priors: Mapping[str, Prior],
) -> Remaining:
    """Compare hidden states on the shared model with targets on the base model.

    Parameters
    ----------
    editor, model, requests
        The model is the base model, without any update.
    shared : EditState
        What the clients have edited so far.
    targets : Targets
        Of these requests, optimised on the base model.
    priors : Mapping[str, Prior]
        By module.
    """
    layers = editor.spec.layers
    base = editor.readings(model, requests, layers)
    with shared.applied(model.model):
        now = editor.readings(model, requests, layers[:1])
    full = editor.residuals(targets, base).norm(dim=0)
    left = editor.residuals(targets, now).norm(dim=0)
    leverage = sum(
        (
            priors[model.module_name(layer)].whiten(base.keys[layer]).square().sum(dim=0)
            for layer in layers
        ),
        torch.zeros(len(requests), dtype=torch.float64),
    )
    nothing = torch.zeros_like(left)
    return Remaining(torch.where(full > 0, left / full, nothing).double(), 1 / (1 + leverage))

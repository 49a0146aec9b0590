"""Edit from memory vectors: what FedEdit's clients do with one another's edits, without text.

Letters: ``n`` edits, ``d`` residual width, ``m`` edited layers; ``z`` target vectors, ``h`` hidden
states, ``k_l`` keys of layer ``l``, all three read on the base model; ``D_l`` updates already in
the receiver's model.

Source: FedLEKE (arXiv 2502.15677), eq. 6 to 8. The paper uploads ``(z, k_l)``; without the
receiver's own hidden state for the sender's subject no residual follows from them, and the released
code looks the sender's text up instead. With ``h`` uploaded too, the residual left on the
receiver's model is ``z - h - sum_l D_l k_l`` to first order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fleke_flwr.editors.base import Editor, Targets
from fleke_flwr.editors.modes import anticipated
from fleke_flwr.models import EditableModel
from fleke_flwr.modes import STACKED
from fleke_flwr.types import (
    EditRequest,
    LayerStatistics,
    LayerUpdate,
    MemoryVectors,
    group_name,
)


def memory_vectors(
    editor: Editor, model: EditableModel, requests: Sequence[EditRequest], targets: Targets
) -> MemoryVectors:
    """Read what belongs to the targets on the base model.

    Parameters
    ----------
    editor : Editor
        Reads keys and hidden states; in mode ``anticipated`` the keys are those read where the
        request's own residual is meant to bring the network.
    model : EditableModel
        The base model, without any update.
    requests : Sequence[EditRequest]
        ``n`` requests; may be empty.
    targets : Targets
        Of these requests, optimised on the base model.

    Returns
    -------
    MemoryVectors
        In float64.
    """
    layers = editor.spec.layers
    if editor.spec.mode == "anticipated":
        readings = anticipated(editor, model, requests, targets)
    else:
        readings = editor.readings(model, requests, layers)
    keys = {model.module_name(layer): readings.keys[layer].T.contiguous() for layer in layers}
    hidden = readings.hidden.T.contiguous()
    return MemoryVectors(targets.vectors.to(hidden), hidden, keys)


def residuals(
    vectors: MemoryVectors, updates: Mapping[str, LayerUpdate], total: float = 1.0
) -> Tensor:
    """Return ``z - h - sum_l D_l k_l / total``, ``(d, n)`` in float64.

    The effect of the updates is taken to first order: what they change in later attention and MLPs
    is left out. ``total`` is how many times the editor writes the residual (``Editor.total``).
    """
    left = (vectors.targets - vectors.hidden).double().T
    for module, update in updates.items():
        keys = vectors.keys[module].double().T
        change = update.to(torch.float64)
        if change.right is None:
            left = left - change.left @ keys / total
        else:
            left = left - change.left @ (change.right @ keys) / total
    return left


def known(
    vectors: MemoryVectors,
    updates: Mapping[str, LayerUpdate],
    below: float,
    total: float = 1.0,
) -> Tensor:
    """Tell which edits a model already makes: relative residual smaller than ``below``, ``(n,)``.

    An edit whose target is its hidden state asks for nothing and counts as known.
    """
    full = residuals(vectors, {}).norm(dim=0)
    return torch.le(residuals(vectors, updates, total).norm(dim=0), below * full)


def vector_statistics(
    vectors: MemoryVectors,
    updates: Mapping[str, LayerUpdate],
    mode: str,
    modules: Sequence[str],
    total: float = 1.0,
) -> dict[str, LayerStatistics]:
    """Return statistics of edits that are known by their vectors only.

    Parameters
    ----------
    vectors : MemoryVectors
        May be empty.
    updates : Mapping[str, LayerUpdate]
        In the model that is to be edited.
    mode : str
        ``joint`` and ``anticipated`` ask all layers together for the residual; in every other mode
        each layer by itself is asked for an equal part, since keys behind other updates cannot be
        read without text.
    modules : Sequence[str]
        Edited modules, in layer order.
    total : float
        How many times the editor writes the residual.

    Returns
    -------
    dict[str, LayerStatistics]
        By group name, in float64.
    """
    left = residuals(vectors, updates, total) * total
    groups = [tuple(modules)] if mode in STACKED else [(module,) for module in modules]
    return {
        group_name(group): LayerStatistics(
            len(vectors),
            keys=torch.cat([vectors.keys[module].double().T for module in group]),
            residuals=left / len(groups),
        )
        for group in groups
    }


def stacked_keys(vectors: MemoryVectors) -> dict[str, Tensor]:
    """Return keys ``(d_in, n)`` by module, to be protected."""
    return {module: matrix.double().T for module, matrix in vectors.keys.items()}

"""Whole edits the slow and obvious way: layer after layer, weights written, matrices solved.

Letters: ``f`` input width, ``d`` residual width, ``n`` requests, ``m`` edited layers; ``Z (d, n)``
target vectors, ``H (d, n)`` what they are compared with, ``K (f, n)`` keys, ``R (d, n)`` residuals,
``C0 (f, f)`` second moments of ordinary keys, unweighted.

Sources: the layer loop of MEMIT (``execute_memit``), the updates of PMET, EMMET and AlphaEdit as
their papers and codes write them. Nothing here is shared with the code it judges but the model and
the tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.models import EditableModel
from fleke_flwr.models.tokens import subject_position
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest
from tests.editors.reference import one_key

Solve = Callable[[str, Tensor, Tensor], Tensor]
Place = Callable[[EditableModel, int], nn.Module]


def block(model: EditableModel, layer: int) -> nn.Module:
    """MEMIT's targets belong to the output of the whole block."""
    return model.blocks[layer]


def projection(model: EditableModel, layer: int) -> nn.Module:
    """PMET's targets belong to the output of the MLP's projection."""
    return model.projection(layer)


def memit(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    Z: Tensor,
    moments: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return ``Delta (d, f)`` by module: ``R X^T`` with ``X = (lambda C0 + K K^T)^-1 K``."""

    def solve(module: str, K: Tensor, R: Tensor) -> Tensor:
        X = torch.linalg.solve(spec.ridge_weight * moments[module] + K @ K.T, K)
        return R @ X.T

    return loop(model, spec, requests, Z, block, lambda left: left, solve)


def pmet(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    Z: Tensor,
    moments: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """As MEMIT with the MLP's targets alone, and square roots for the layers that are left."""

    def solve(module: str, K: Tensor, R: Tensor) -> Tensor:
        system = K @ K.T + spec.ridge_weight * moments[module]
        return torch.linalg.solve(system, K @ R.T).T

    return loop(model, spec, requests, Z, projection, lambda left: left**0.5, solve)


def emmet(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    Z: Tensor,
    moments: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """``R (K^T C^-1 K + eps I)^-1 K^T C^-1`` with ``eps = equality``."""

    def solve(module: str, K: Tensor, R: Tensor) -> Tensor:
        right = torch.linalg.solve(spec.ridge_weight * moments[module], K).T
        constraint = right @ K + float(spec.options["equality"]) * torch.eye(K.shape[1]).double()
        return R @ torch.linalg.solve(constraint, right)

    return loop(model, spec, requests, Z, block, lambda left: left, solve)


def alphaedit(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    Z: Tensor,
    moments: Mapping[str, Tensor],
    past: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """``(P (K K^T + M) + a I) Delta^T = P K R^T``, ``P`` from a singular value decomposition."""

    def solve(module: str, K: Tensor, R: Tensor) -> Tensor:
        U, s, _ = torch.linalg.svd(moments[module])
        Q = U[:, s < float(spec.options["nullspace-threshold"])]
        P = Q @ Q.T
        gram = K @ K.T + (0 if past is None else past[module])
        system = P @ gram + float(spec.options["l2"]) * torch.eye(len(P)).double()
        return torch.linalg.solve(system, P @ K @ R.T).T

    return loop(model, spec, requests, Z, block, lambda left: left, solve)


def loop(
    model: EditableModel,
    spec: EditSpec,
    requests: Sequence[EditRequest],
    Z: Tensor,
    place: Place,
    divisor: Callable[[int], float],
    solve: Solve,
) -> dict[str, Tensor]:
    """Go through the layers with the weights of the earlier ones written; put them back at last."""
    before = {layer: weight(model, layer).detach().clone() for layer in spec.layers}
    deltas: dict[str, Tensor] = {}
    try:
        for index, layer in enumerate(spec.layers):
            K = torch.stack([one_key(model, spec, request, layer) for request in requests], 1)
            H = torch.stack(
                [one_output(model, place(model, spec.layers[-1]), one) for one in requests], 1
            )
            R = (Z - H) / divisor(len(spec.layers) - index)
            delta = solve(model.module_name(layer), K.detach(), R)
            with torch.no_grad():
                weight(model, layer).add_(delta)
            deltas[model.module_name(layer)] = delta
    finally:
        with torch.no_grad():
            for layer, values in before.items():
                weight(model, layer).copy_(values)
    return deltas


def weight(model: EditableModel, layer: int) -> Tensor:
    """Return a view ``(d, f)`` of the stored weight; GPT-2's lie transposed."""
    stored: Tensor = model.projection(layer).weight
    return stored.T if stored.shape[0] == model.input_width(layer) else stored


@torch.no_grad()
def one_output(model: EditableModel, module: nn.Module, request: EditRequest) -> Tensor:
    """Return what a module puts out at the subject's last token of the bare prompt."""
    ids, position = subject_position(model, request.prompt, request.subject)
    seen: list[Tensor] = []

    def look(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden[0, position].detach().clone())

    handle = module.register_forward_hook(look)
    try:
        model.model(torch.tensor([ids]))
    finally:
        handle.remove()
    return seen[0]

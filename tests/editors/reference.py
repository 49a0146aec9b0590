"""MEMIT's target vector for one request, the slow and obvious way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.editors.rows import KL_TEMPLATE
from fleke_flwr.models import EditableModel
from fleke_flwr.models.tokens import encode, pad_batch, subject_position, target_ids
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest


def spec_of(model: EditableModel, **changes: Any) -> EditSpec:
    """Build a recipe from the model's own settings."""
    own = {key.replace("-", "_"): value for key, value in model.settings.items()}
    own["layers"] = tuple(own["layers"])
    contexts = ("{}", "The quiet river was cold. {}", "I saw that. {}")
    defaults = {"editor": "memit", "mode": "joint", "spread": "even", "contexts": contexts}
    return EditSpec(**{**defaults, **own, **changes})


def one_target(
    model: EditableModel, spec: EditSpec, request: EditRequest
) -> tuple[Tensor, Tensor, int]:
    """Return target vector ``(d,)``, initial state ``(d,)`` and the number of steps.

    The whole network runs on all sequences at every step; a hook adds the vector.
    """
    labels = target_ids(model, request.target)
    sequences, positions = [], []
    for context in spec.contexts:
        template = context.replace("{}", request.prompt)
        ids, position = subject_position(model, template, request.subject)
        sequences.append(ids + labels[:-1])
        positions.append(position)
    ids, position = subject_position(model, KL_TEMPLATE, request.subject)
    sequences.append(ids)
    positions.append(position)
    ids, lengths = pad_batch(model, sequences)
    attention = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    every = torch.arange(len(sequences))
    delta = torch.zeros(model.d_model, dtype=model.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=spec.learning_rate)
    seen: dict[str, Tensor] = {}

    def add(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        seen.setdefault("initial", output[0, positions[0]].detach().clone())
        output = output.clone()
        output[every, torch.tensor(positions)] += delta
        return output

    handle = model.blocks[spec.layers[-1]].register_forward_hook(add)
    steps = 0
    try:
        for step in range(spec.steps):
            optimizer.zero_grad()
            logs = model.model(input_ids=ids, attention_mask=attention).logits.log_softmax(-1)
            likelihood = torch.stack(
                [
                    sum(
                        logs[row, lengths[row] - len(labels) + offset, label]
                        for offset, label in enumerate(labels)
                    )
                    / len(labels)
                    for row in range(len(spec.contexts))
                ]
            ).mean()
            edited = logs[-1, positions[-1]]
            before = seen.setdefault("before", edited.detach().clone())
            divergence = nn.functional.kl_div(before, edited, log_target=True, reduction="sum")
            norm = seen["initial"].norm()
            loss = (
                -likelihood
                + spec.kl_weight * divergence
                + spec.weight_decay * delta.norm() / norm**2
            )
            if loss < spec.stop_loss or step == spec.steps - 1:
                break
            loss.backward()
            optimizer.step()
            steps += 1
            with torch.no_grad():
                if delta.norm() > spec.clamp * norm:
                    delta.mul_(spec.clamp * norm / delta.norm())
    finally:
        handle.remove()
    return (seen["initial"] + delta).detach(), seen["initial"], steps


def one_key(model: EditableModel, spec: EditSpec, request: EditRequest, layer: int) -> Tensor:
    """Return the key of one request, every context run alone and whole."""
    keys = []
    for context in spec.contexts:
        template = context.replace("{}", request.prompt)
        ids, position = subject_position(model, template, request.subject)
        handle = model.projection(layer).register_forward_pre_hook(
            lambda _, args, position=position: keys.append(args[0][0, position].double())
        )
        try:
            model.model(torch.tensor([encode(model, template.replace("{}", request.subject))]))
        finally:
            handle.remove()
        assert ids
    if len(keys) == 1:
        return keys[0]
    return keys[0] / 2 + torch.stack(keys[1:]).mean(0) / 2

"""Target vectors of MEMIT and PMET for one request, the slow and obvious way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.models import EditableModel
from fleke_flwr.models.tokens import encode, pad_batch, subject_position, target_ids
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest


def spec_of(model: EditableModel, **changes: Any) -> EditSpec:
    """Build a recipe from the model's own settings."""
    tables = {name for name, value in model.settings.items() if isinstance(value, dict)}
    own = {k.replace("-", "_"): v for k, v in model.settings.items() if k not in tables}
    own["layers"] = tuple(own["layers"])
    contexts = ("{}", "The quiet river was cold. {}", "I saw that. {}")
    defaults = {"editor": "memit", "mode": "joint", "spread": "even", "contexts": contexts}
    return EditSpec(**{**defaults, **own, **changes})


@dataclass(frozen=True)
class Laid:
    """All sequences of one request in one padded batch; the last one holds the meaning in place."""

    ids: Tensor
    lengths: Tensor
    positions: list[int]
    labels: list[int]

    def add(self, output: Tensor, vector: Tensor) -> Tensor:
        """Add a vector at the subject's last token of every sequence."""
        output = output.clone()
        output[torch.arange(len(self.ids)), torch.tensor(self.positions)] += vector
        return output

    def logs(self, model: EditableModel) -> Tensor:
        """Return the log probabilities of the whole network everywhere."""
        attention = (torch.arange(self.ids.shape[1]) < self.lengths[:, None]).long()
        logits: Tensor = model.model(input_ids=self.ids, attention_mask=attention).logits
        return logits.log_softmax(-1)

    def likelihoods(self, logs: Tensor) -> Tensor:
        """Return the mean log likelihood of the target in every context."""
        return self._mean(lambda row, column, label: logs[row, column, label])

    def highest(self, logs: Tensor) -> Tensor:
        """Return the mean log likelihood of the likeliest tokens at the target's positions."""
        return self._mean(lambda row, column, _: logs[row, column].max())

    def _mean(self, read: Callable[[int, int, int], Tensor]) -> Tensor:
        count = len(self.labels)
        return torch.stack(
            [
                sum(
                    read(row, int(self.lengths[row]) - count + offset, label)
                    for offset, label in enumerate(self.labels)
                )
                / count
                for row in range(len(self.ids) - 1)
            ]
        )


def lay_out(model: EditableModel, spec: EditSpec, request: EditRequest) -> Laid:
    """Build the sequences of a request from separately encoded prompts and targets."""
    labels = target_ids(model, request.target)
    sequences, positions = [], []
    for context in spec.contexts:
        template = context.replace("{}", request.prompt)
        ids, position = subject_position(model, template, request.subject)
        sequences.append(ids + labels[:-1])
        positions.append(position)
    ids, position = subject_position(model, "{} is a", request.subject)
    sequences.append(ids)
    positions.append(position)
    padded, lengths = pad_batch(model, sequences)
    return Laid(padded, lengths, positions, labels)


def one_target(
    model: EditableModel, spec: EditSpec, request: EditRequest
) -> tuple[Tensor, Tensor, int]:
    """Return target vector ``(d,)``, initial state ``(d,)`` and the number of steps.

    The whole network runs on all sequences at every step; a hook adds the vector.
    """
    laid = lay_out(model, spec, request)
    delta = torch.zeros(model.d_model, dtype=model.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=spec.learning_rate)
    seen: dict[str, Tensor] = {}

    def add(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        seen.setdefault("initial", output[0, laid.positions[0]].detach().clone())
        return laid.add(output, delta)

    handle = model.blocks[spec.layers[-1]].register_forward_hook(add)
    steps = 0
    try:
        for step in range(spec.steps):
            optimizer.zero_grad()
            logs = laid.logs(model)
            likelihood = laid.likelihoods(logs).mean()
            edited = logs[-1, laid.positions[-1]]
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
            clamp(delta, spec.clamp * norm)
    finally:
        handle.remove()
    return (seen["initial"] + delta).detach(), seen["initial"], steps


@dataclass(frozen=True)
class PmetTarget:
    """What PMET's optimisation of one request ends with, and the factors it went through."""

    mlp: Tensor
    attention: Tensor
    initial: dict[str, Tensor]
    steps: int
    factors: list[float]


def one_pmet_target(model: EditableModel, spec: EditSpec, request: EditRequest) -> PmetTarget:
    """Optimise both vectors of one request; hooks add them while the whole network runs.

    Whether the greedy output is the target is asked as the released code does: are two means of
    probabilities the same number?
    """
    laid = lay_out(model, spec, request)
    block = model.blocks[spec.layers[-1]]
    zero = torch.zeros(model.d_model, dtype=model.dtype)
    mlp, attention = zero.clone().requires_grad_(), zero.clone().requires_grad_()
    optimizer = torch.optim.Adam([mlp, attention], lr=spec.learning_rate)
    initial: dict[str, Tensor] = {}

    def add_mlp(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        initial.setdefault("mlp", output[0, laid.positions[0]].detach().clone())
        return laid.add(output, mlp)

    def add_attention(_: nn.Module, __: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        initial.setdefault("attention", output[0][0, laid.positions[0]].detach().clone())
        return (laid.add(output[0], attention), *output[1:])

    handles = [
        model.projection(spec.layers[-1]).register_forward_hook(add_mlp),
        block.get_submodule(model.family.attention).register_forward_hook(add_attention),
    ]
    factor, factors, steps = 1.0, [], 0
    before = None
    try:
        for step in range(spec.steps):
            optimizer.zero_grad()
            logs = laid.logs(model)
            likelihoods = laid.likelihoods(logs)
            edited = logs[-1, laid.positions[-1]]
            before = edited.detach().clone() if before is None else before
            divergence = spec.kl_weight * (edited.exp() * (edited - before)).sum()
            decay = spec.weight_decay * (
                mlp.norm() / initial["mlp"].norm() ** 2
                + attention.norm() / initial["attention"].norm() ** 2
            )
            factors.append(factor)
            loss = -factor * likelihoods.mean() + divergence + decay
            if loss < spec.stop_loss:
                break
            factor = 1.0
            if laid.highest(logs).exp().mean() == likelihoods.exp().mean():
                factor = 0.1
                if divergence <= 0.01:
                    break
            if step == spec.steps - 1:
                break
            loss.backward()
            optimizer.step()
            steps += 1
            clamp(mlp, spec.clamp * initial["mlp"].norm())
            clamp(attention, spec.clamp * initial["attention"].norm())
    finally:
        for handle in handles:
            handle.remove()
    return PmetTarget((initial["mlp"] + mlp).detach(), attention.detach(), initial, steps, factors)


@torch.no_grad()
def clamp(vector: Tensor, radius: Tensor) -> None:
    """Shorten a vector to a radius, in place, if it is longer."""
    if vector.norm() > radius:
        vector.mul_(radius / vector.norm())


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

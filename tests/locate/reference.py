"""Causal tracing as slow as it reads: hooks on the whole network, one token and layer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.locate.facts import Prompt
from fleke_flwr.models import EditableModel

Place = tuple[int, str]


def module(model: EditableModel, place: Place) -> nn.Module:
    """Return a block, or its MLP or attention."""
    layer, part = place
    block = model.blocks[layer]
    if part == "block":
        return block
    family = model.family
    return block.get_submodule(family.mlp_modules[-1] if part == "mlp" else family.attention)


def first(output: Any) -> Tensor:
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


@contextmanager
def hooked(target: nn.Module, change: Any) -> Iterator[None]:
    def act(_: nn.Module, __: Any, output: Any) -> Any:
        hidden = first(output).clone()
        change(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = target.register_forward_hook(act)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def run(
    model: EditableModel,
    prompt: Prompt,
    noise: Tensor,
    changes: Mapping[Place, Any],
    replace: bool = False,
) -> Tensor:
    """Return the probabilities ``(1 + S, vocabulary)``; row 0 has no noise."""

    def corrupt(hidden: Tensor) -> None:
        subject = hidden[1:, prompt.start : prompt.stop]
        subject.copy_(noise if replace else subject + noise)

    ids = torch.tensor([prompt.ids] * (1 + len(noise)))
    with ExitStack() as hooks:
        hooks.enter_context(hooked(model.model.get_input_embeddings(), corrupt))
        for place, change in changes.items():
            hooks.enter_context(hooked(module(model, place), change))
        return model.model(ids, use_cache=False).logits[:, -1].softmax(dim=-1)


def restored(token: int) -> Any:
    """Copy the clean row's output at the token to all others."""

    def change(hidden: Tensor) -> None:
        hidden[1:, token] = hidden[0, token].clone()

    return change


def held(token: int, values: Tensor) -> Any:
    """Hold the corrupted rows' output at the token at what it was."""

    def change(hidden: Tensor) -> None:
        hidden[1:, token] = values

    return change


def corrupted_outputs(
    model: EditableModel, prompt: Prompt, noise: Tensor, part: str, replace: bool
) -> list[Tensor]:
    """Return by layer what a part puts out in the corrupted run, ``(S, T, d)``."""
    found: list[Tensor] = []
    keep = {
        (layer, part): lambda hidden: found.append(hidden[1:].clone())
        for layer in range(model.num_layers)
    }
    run(model, prompt, noise, keep, replace)
    return found


def changes_of(
    kind: str,
    token: int,
    layer: int,
    window: int,
    corrupted: Mapping[str, Sequence[Tensor]],
    num_layers: int,
) -> dict[Place, Any]:
    """Say what is put where; ``corrupted`` holds the outputs of the parts by layer."""
    if kind in ("mlp", "attention"):
        low, high = layer - window // 2, layer - (-window // 2)
        return {(at, kind): restored(token) for at in range(max(0, low), min(num_layers, high))}
    changes: dict[Place, Any] = {(layer, "block"): restored(token)}
    if kind.startswith("severed-"):
        part = kind.removeprefix("severed-")
        for at in range(layer + 1, num_layers):
            changes[at, part] = held(token, corrupted[part][at][:, token])
    return changes


def slow_scores(
    model: EditableModel,
    prompt: Prompt,
    noise: Tensor,
    kinds: Sequence[str],
    window: int,
    replace: bool = False,
) -> tuple[float, float, dict[str, Tensor]]:
    """Return p_high, p_low, and the scores ``(T, L)`` by kind."""
    base = run(model, prompt, noise, {}, replace)
    answer = int(base[0].argmax())
    corrupted = {
        part: corrupted_outputs(model, prompt, noise, part, replace)
        for part in ("mlp", "attention")
        if any(kind.endswith(part) for kind in kinds)
    }
    scores = {}
    for kind in kinds:
        table = torch.zeros(len(prompt.ids), model.num_layers, dtype=torch.float64)
        for token in range(len(prompt.ids)):
            for layer in range(model.num_layers):
                changes = changes_of(kind, token, layer, window, corrupted, model.num_layers)
                found = run(model, prompt, noise, changes, replace)
                table[token, layer] = found[1:, answer].double().mean()
        scores[kind] = table
    return float(base[0, answer]), float(base[1:, answer].double().mean()), scores

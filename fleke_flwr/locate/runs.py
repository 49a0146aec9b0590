"""The clean and the corrupted run of a prompt, with everything that a restoration needs of them.

Letters: ``S`` corrupted copies, ``T`` tokens, ``d`` width of the residual stream, ``n`` subject
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.errors import UnsupportedModelError
from fleke_flwr.locate.facts import Prompt
from fleke_flwr.locate.restorations import PARTS, Part
from fleke_flwr.models.forward import Memory, run_blocks, segment
from fleke_flwr.models.hooks import captured_outputs
from fleke_flwr.models.loading import EditableModel


@dataclass(frozen=True)
class Runs:
    """Row 0 is the clean run, rows 1 to ``S`` are corrupted.

    Parameters
    ----------
    states : list[Tensor]
        Hidden states ``(1 + S, T, d)`` that enter each block, and those behind the last.
    outputs : Mapping[str, list[Tensor]]
        By part, what it puts out in each layer, ``(1 + S, T, d)``.
    memory : Memory
        Keys and values of all layers and positions.
    probabilities : Tensor
        Of every token at the end of the prompt, ``(1 + S, vocabulary)``.
    """

    states: list[Tensor]
    outputs: Mapping[Part, list[Tensor]]
    memory: Memory
    probabilities: Tensor


@torch.no_grad()
def run_both(
    model: EditableModel, prompt: Prompt, noise: Tensor, replace: bool, parts: Sequence[Part]
) -> Runs:
    """Run a prompt once as it is and once for every draw of the noise.

    Parameters
    ----------
    noise : Tensor
        ``(S, n, d)``, put on the output of the token embedding, before anything of the place.
    replace : bool
        Whether it takes the embedding's place instead of being added.
    parts : Sequence[str]
        Whose outputs are kept, of ``mlp`` and ``attention``.
    """
    ids = torch.tensor([prompt.ids] * (1 + len(noise)), device=model.device)
    positions = torch.arange(ids.shape[1], device=model.device).expand(ids.shape)
    with _corrupted(model, prompt, noise, replace):
        hidden, whole = segment(model, ids, positions, None)
    states, remembered = [hidden], dict[int, tuple[Tensor, Tensor]]()
    outputs: dict[Part, list[Tensor]] = {part: [] for part in parts}
    for layer in range(model.num_layers):
        with captured_outputs({part: model.part(layer, part) for part in parts}) as captured:
            hidden, keys = run_blocks(model, hidden, whole, layer, layer + 1)
        states.append(hidden)
        remembered.update(keys)
        for part in parts:
            outputs[part].append(captured[part])
    memory = Memory(remembered, torch.ones_like(ids, dtype=torch.bool))
    return Runs(states, outputs, memory, probabilities(model, hidden[:, -1]))


def probabilities(model: EditableModel, hidden: Tensor) -> Tensor:
    """Return the next token's probabilities ``(rows, vocabulary)`` behind the last block."""
    logits = model.logits(model.final_norm(hidden))
    return logits.to(model.working_dtype).softmax(dim=-1)


def missing_parts(model: EditableModel) -> list[Part]:
    """Return which parts a family's blocks do not have as modules of their own."""
    missing: list[Part] = []
    for part in PARTS:
        try:
            model.part(0, part)
        except UnsupportedModelError:
            missing.append(part)
    return missing


@contextmanager
def _corrupted(
    model: EditableModel, prompt: Prompt, noise: Tensor, replace: bool
) -> Iterator[None]:
    def corrupt(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        output = output.clone()
        subject = output[1:, prompt.start : prompt.stop]
        subject.copy_(noise.to(subject) if replace else subject + noise.to(subject))
        return output

    handle = model.model.get_input_embeddings().register_forward_hook(corrupt)
    try:
        yield
    finally:
        handle.remove()

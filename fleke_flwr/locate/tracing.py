"""Causal tracing: which states, put back into a corrupted run, bring the answer back.

ROME (arXiv 2202.05262), section 2 and appendix B; MEMIT (arXiv 2210.07229), section 4.1.

Everything below the restored layer and before the restored token is the corrupted run, whatever is
restored. So that run is made once, and a restoration starts at its own layer and token. All
restorations of a token lie in one batch, which grows from layer to layer as they join it.

Letters: ``S`` corrupted copies, ``T`` tokens of the prompt, ``L`` layers, ``d`` width of the
residual stream, ``m`` restorations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.errors import ConfigError, ModelError
from fleke_flwr.locate.facts import Prompt
from fleke_flwr.locate.noise import Noise, embedding_width
from fleke_flwr.locate.restorations import (
    KINDS,
    Restoration,
    check_kinds,
    default_window,
    parts_of,
    restorations,
)
from fleke_flwr.locate.runs import Runs, missing_parts, probabilities, run_both
from fleke_flwr.models.forward import (
    Memory,
    Segment,
    run_block_at,
    run_blocks,
    subsegment,
)
from fleke_flwr.models.loading import EditableModel

_BATCH_TOKENS = 16384


@dataclass(frozen=True)
class TraceSettings:
    """How facts are traced.

    Parameters
    ----------
    kinds : tuple[str, ...]
        What is restored; see :func:`fleke_flwr.locate.restorations.restorations`.
    samples : int
        Corrupted copies ``S``.
    window : int
        How many MLPs or attentions are restored together; 0 for the model's default.
    replace : bool
        Whether the noise takes the embedding's place. ROME's code then still adds it in the
        corrupted run that scores are compared with; here it takes the place there, too.
    seed : int
        Of the noise.
    batch_tokens : int
        Upper bound of the tokens in one forward pass.

    Raises
    ------
    ConfigError
        If a kind is unknown or a number is too small.
    """

    kinds: tuple[str, ...] = KINDS
    samples: int = 10
    window: int = 0
    replace: bool = False
    seed: int = 1
    batch_tokens: int = _BATCH_TOKENS

    def __post_init__(self) -> None:
        """Refuse what makes no trace."""
        check_kinds(self.kinds)
        if self.samples < 1:
            raise ConfigError(f"samples = {self.samples}: at least 1 corrupted copy is needed")
        if self.window < 0:
            raise ConfigError(
                f"window = {self.window}: at least 1 layer is restored; 0 stands for the default"
            )

    def for_model(self, model: EditableModel) -> TraceSettings:
        """Choose the window, and leave out kinds for which a family's blocks have no module.

        Raises
        ------
        ModelError
            If no kind is left.
        """
        missing = missing_parts(model)
        kinds = tuple(kind for kind in self.kinds if not set(parts_of([kind])) & set(missing))
        if not kinds:
            raise ModelError(
                f"model {model.name!r}: blocks of type {model.family.model_type!r} have no module "
                f"for {' and '.join(missing)}; trace the kind 'block'"
            )
        return replace(self, kinds=kinds, window=self.window or default_window(model.num_layers))


@dataclass(frozen=True)
class Trace:
    """The scores of one fact.

    Parameters
    ----------
    tokens : tuple[str, ...]
        Of the prompt.
    start, stop : int
        The subject's.
    answer : str
        The model's most likely next token, whose probability all scores are.
    high, low : float
        Its probability in the clean run, and the mean over the corrupted ones.
    scores : Mapping[str, Tensor]
        By kind, mean probability ``(T, L)`` with the token's state of the layer restored, float64.
    """

    tokens: tuple[str, ...]
    start: int
    stop: int
    answer: str
    high: float
    low: float
    scores: Mapping[str, Tensor]


@torch.no_grad()
def trace(model: EditableModel, prompt: Prompt, noise: Noise, settings: TraceSettings) -> Trace:
    """Trace the answer of one prompt.

    The answer is the model's own most likely next token, as in ROME's code; whether it is right is
    for the caller to judge. Restoring a token before the subject changes nothing, so its score is
    that of the corrupted run.

    Parameters
    ----------
    model : EditableModel
        Left as it is.
    prompt : Prompt
        From :func:`fleke_flwr.locate.facts.prompt_of`.
    noise : Noise
        From :func:`fleke_flwr.locate.noise.fitted_noise`.
    settings : TraceSettings
        From :meth:`TraceSettings.for_model`.
    """
    width = embedding_width(model)
    drawn = noise.draw(settings.seed, prompt, settings.samples, width)
    runs = run_both(model, prompt, drawn, settings.replace, parts_of(settings.kinds))
    answer = int(runs.probabilities[0].argmax())
    found = runs.probabilities[:, answer].double()
    high, low = float(found[0]), float(found[1:].mean())
    plan = [
        item
        for kind in settings.kinds
        for item in restorations(kind, model.num_layers, settings.window)
    ]
    size = (len(prompt.ids), model.num_layers)
    scores = {kind: torch.full(size, low, dtype=torch.float64) for kind in settings.kinds}
    for token in range(prompt.start, len(prompt.ids)):
        for item, score in _restored(model, runs, token, plan, answer, settings.batch_tokens):
            scores[item.kind][token, item.layer] = score
    name = str(model.tokenizer.decode([answer]))
    return Trace(prompt.tokens, prompt.start, prompt.stop, name, high, low, scores)


def _restored(
    model: EditableModel,
    runs: Runs,
    token: int,
    plan: Sequence[Restoration],
    answer: int,
    batch_tokens: int,
) -> Iterator[tuple[Restoration, float]]:
    """Yield the answer's mean probability for every restoration at one token."""
    samples, length = len(runs.states[0]) - 1, runs.states[0].shape[1] - token
    at_once = max(1, model.batch_limit(batch_tokens) // (samples * length))
    later = _later(model, runs, token)
    ordered = sorted(plan, key=lambda item: item.start)
    for first in range(0, len(ordered), at_once):
        chunk = ordered[first : first + at_once]
        hidden = _run_on(model, runs, token, chunk, later)
        found = probabilities(model, hidden)[:, answer].double().view(len(chunk), samples)
        yield from zip(chunk, found.mean(dim=1).tolist(), strict=True)


def _later(model: EditableModel, runs: Runs, token: int) -> Segment:
    """Return the positions from ``token`` on, for one row, which remembers nothing yet."""
    positions = torch.arange(token, runs.states[0].shape[1], device=model.device)[None]
    memory = _before(runs, token, list(runs.memory.layers)) if token else None
    first_row = torch.zeros(1, dtype=torch.long, device=model.device)
    return subsegment(model, positions, memory.rows(first_row) if memory else None)


def _before(runs: Runs, token: int, layers: Sequence[int]) -> Memory:
    """Return what the corrupted rows remember of the positions before ``token``."""
    found = {
        layer: (
            runs.memory.layers[layer][0][1:, :, :token],
            runs.memory.layers[layer][1][1:, :, :token],
        )
        for layer in layers
    }
    return Memory(found, runs.memory.valid[1:, :token])


def _run_on(
    model: EditableModel, runs: Runs, token: int, chunk: Sequence[Restoration], later: Segment
) -> Tensor:
    """Return the last position's states ``(m S, d)`` behind the last block, in the chunk's order.

    The chunk is ordered by where its restorations start; each joins the batch there.
    """
    hidden = runs.states[0][:0, token:]
    active: list[Restoration] = []
    for layer in range(chunk[0].start, model.num_layers):
        joining = [item for item in chunk if item.start == layer]
        entering = [_entering(runs, token, item).to(hidden.device) for item in joining]
        hidden = torch.cat([hidden, *entering])
        active += joining
        copies = torch.arange(len(runs.states[0]) - 1, device=model.device)
        part = _segment_at(runs, token, layer, later, copies.repeat(len(active)))
        with _replaced(model, runs, token, layer, active):
            hidden = _run_block(model, layer, hidden, part)
    behind = [_entering(runs, token, item) for item in chunk if item.start == model.num_layers]
    return torch.cat([states[:, -1].to(hidden.device) for states in (hidden, *behind)])


def _run_block(model: EditableModel, layer: int, hidden: Tensor, part: Segment) -> Tensor:
    """Run a block; of the last one only the last position is wanted, unless it is the token."""
    if layer < model.num_layers - 1 or hidden.shape[1] == 1:
        return run_blocks(model, hidden, part, layer, layer + 1)[0]
    rows = torch.arange(len(hidden), device=hidden.device)
    last = torch.full_like(rows, hidden.shape[1] - 1)
    return run_block_at(model, layer, [(hidden, part, (rows, last))])[:, None]


def _segment_at(runs: Runs, token: int, layer: int, later: Segment, copies: Tensor) -> Segment:
    """Return the segment of some rows, which remember what one layer needs of their copy."""
    part = replace(later, memory=None).rows(torch.zeros_like(copies))
    if not token:
        return part
    return replace(part, memory=_before(runs, token, [layer]).rows(copies))


def _entering(runs: Runs, token: int, item: Restoration) -> Tensor:
    """Return the states ``(S, T - token, d)`` with which a restoration enters its first block."""
    states = runs.states[item.start]
    entering = states[1:, token:].clone()
    if item.state:
        entering[:, 0] = states[0, token]
    return entering


@contextmanager
def _replaced(
    model: EditableModel, runs: Runs, token: int, layer: int, active: Sequence[Restoration]
) -> Iterator[None]:
    """Replace what parts of one layer put out at the token, where a restoration says so."""
    samples = len(runs.states[0]) - 1
    with ExitStack() as hooks:
        for name, outputs in runs.outputs.items():
            # Behind the last block, what a part puts out at another token reaches nobody.
            last = layer == model.num_layers - 1 and token < runs.states[0].shape[1] - 1
            chosen = [
                index
                for index, item in enumerate(active)
                if item.part == name and layer in item.layers
            ]
            if not chosen or last:
                continue
            clean, corrupted = outputs[layer][:1, token], outputs[layer][1:, token]
            values = torch.cat(
                [
                    clean.expand(samples, -1) if active[index].clean else corrupted
                    for index in chosen
                ]
            )
            rows = [index * samples + copy for index in chosen for copy in range(samples)]
            where = torch.tensor(rows, device=model.device)
            hooks.enter_context(_put(model.part(layer, name), where, values))
        yield


@contextmanager
def _put(module: nn.Module, rows: Tensor, values: Tensor) -> Iterator[None]:
    """Make a module put out ``values (rows, d)`` at the first position of some rows."""

    def put(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[rows.to(hidden.device), 0] = values.to(hidden.device)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = module.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()

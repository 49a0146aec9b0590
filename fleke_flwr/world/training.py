"""Train a small language model until it knows a world."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from fleke_flwr.errors import WorldError
from fleke_flwr.progress import Progress
from fleke_flwr.world.examples import OUTSIDE, Examples, Rows, draw, pack, tokenize
from fleke_flwr.world.network import draw_paths, logits_at, new_model
from fleke_flwr.world.recipe import Recipe
from fleke_flwr.world.schema import World

_PHASE = "training"
_TICKS = 1000


@dataclass(frozen=True)
class Training:
    """How a training went.

    Parameters
    ----------
    steps : int
        Optimiser steps done.
    seconds : float
        Wall time of the loop.
    exposures : float
        How often a fact was shown, on average.
    answer_loss : float
        Mean loss at answers over the last steps.
    row_tokens : int
        Length of the rows, and so the longest text it was trained on.
    """

    steps: int
    seconds: float
    exposures: float
    answer_loss: float
    row_tokens: int


class _Clock:
    """Progress in [0, 1): the larger of the share of exposures and the share of the time."""

    def __init__(self, recipe: Recipe, facts: int, progress: Progress) -> None:
        self.recipe = recipe
        self.facts = facts
        self.progress = progress
        self.began = time.monotonic()
        self.step = 0
        self.statements = 0
        self._told = 0
        progress.start(_PHASE, _TICKS)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def now(self) -> float:
        share = self.exposures / self.recipe.exposures
        return max(share, self.seconds / (60 * self.recipe.minutes))

    @property
    def exposures(self) -> float:
        return self.statements / self.facts

    def tick(self, statements: int) -> None:
        self.step += 1
        self.statements += statements
        ticks = min(_TICKS, int(_TICKS * self.now))
        if ticks > self._told:
            self.progress.advance(_PHASE, ticks - self._told)
            self._told = ticks


def train(
    world: World, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, progress: Progress
) -> tuple[GPT2LMHeadModel, Training]:
    """Train a new model on the trained phrasings of a world's facts.

    Muon on the matrices of the blocks, AdamW on the rest, bfloat16 where the CPU multiplies it,
    a loss weighted towards the answers, a curriculum over the facts, and attention-route dropout
    (see :class:`~fleke_flwr.world.recipe.Routes`). Position embeddings begin at zero, so that
    positions beyond the rows of the training mean nothing instead of something random.

    Raises
    ------
    WorldError
        If a sentence that states a fact is longer than the model can read.
    """
    examples = _examples(world, tokenizer, recipe)
    row_tokens = max(recipe.row_tokens, examples.longest_statement)
    model = _initial_model(recipe)
    optimizers = _optimizers(model, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    clock = _Clock(recipe, len(world.facts), progress)
    batches = _batches(examples, replace(recipe, row_tokens=row_tokens), clock, generator)
    losses = []
    while clock.now < 1:
        rows = next(batches)
        _set_rates(optimizers, recipe.rate_at(clock.now, clock.step))
        loss, at_answers = _loss(model, rows, recipe, generator)
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(at_answers))
        clock.tick(statements(rows))
    recent = losses[-50:]
    nn.Module.train(model, False)
    answer_loss = sum(recent) / len(recent)
    return model, Training(clock.step, clock.seconds, clock.exposures, answer_loss, row_tokens)


def _initial_model(recipe: Recipe) -> GPT2LMHeadModel:
    model = new_model(recipe.shape, recipe.seed)
    positions = model.transformer.wpe.weight
    with torch.no_grad():
        positions.zero_()
    positions.requires_grad_(recipe.learn_positions)
    return model


def _examples(world: World, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Examples:
    """Tokenise statements and those fillers that fit into a row."""
    lengths = map(len, tokenizer(list(world.fillers))["input_ids"])
    fillers = [
        text
        for text, length in zip(world.fillers, lengths, strict=True)
        if length <= recipe.row_tokens
    ]
    examples = tokenize(tokenizer, world.facts, world.locality, fillers, recipe.weights)
    if examples.longest_statement > recipe.shape.positions:
        raise WorldError(
            f"a statement of {examples.longest_statement} tokens is longer than the "
            f"{recipe.shape.positions} that the model can read; shorten its prompt or subject"
        )
    return examples


def _optimizers(model: GPT2LMHeadModel, recipe: Recipe) -> list[Optimizer]:
    trained = [item for item in model.named_parameters() if item[1].requires_grad]
    matrices = [p for name, p in trained if p.ndim == 2 and ".h." in name]
    embeddings = [p for name, p in trained if p.ndim == 2 and ".h." not in name]
    vectors = [p for _, p in trained if p.ndim < 2]
    groups = [
        {"params": embeddings, "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [
        Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.matrix_decay, ns_steps=4),
        AdamW(groups, lr=recipe.vector_rate, betas=(0.9, 0.95), fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def _set_rates(optimizers: list[Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_rate"] * factor


def _batches(
    examples: Examples, recipe: Recipe, clock: _Clock, generator: torch.Generator
) -> Iterator[Rows]:
    """Yield batches for ever; every pass shows each fact that the curriculum has reached."""
    rng = random.Random(recipe.seed)
    count = len(examples.phrasings)
    order = rng.sample(range(count), count)
    left: Rows | None = None
    while True:
        active = max(1, round(count * recipe.active_share(clock.now)))
        chosen = draw(examples, order[:active], recipe, rng)
        rows = pack(examples, chosen, recipe.row_tokens)
        if left is not None:
            rows = _joined(left, rows)
        shuffled = torch.randperm(len(rows), generator=generator)
        full = len(rows) // recipe.rows
        for batch in shuffled[: full * recipe.rows].view(full, recipe.rows):
            yield rows.batch(batch)
        left = rows.batch(shuffled[full * recipe.rows :])


def _joined(first: Rows, second: Rows) -> Rows:
    return Rows(
        torch.cat([first.tokens, second.tokens]),
        torch.cat([first.weights, second.weights]),
        torch.cat([first.spans, second.spans]),
    )


def statements(rows: Rows) -> int:
    """Count the subjects, and so the stated facts, in rows."""
    before = functional.pad(rows.spans[:, :-1], (1, 0), value=OUTSIDE)
    return int(((rows.spans != OUTSIDE) & (before != rows.spans)).sum())


def _loss(
    model: GPT2LMHeadModel, rows: Rows, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the weighted loss and, detached, the mean loss at answers.

    All answers count, of the other tokens a random share, weighted up accordingly.
    """
    weights = functional.pad(rows.weights[:, 1:], (0, 1)).reshape(-1)
    following = functional.pad(rows.tokens[:, 1:], (0, 1)).reshape(-1)
    share = recipe.weights.sampled
    is_answer = weights == recipe.weights.answer
    drawn = torch.rand(weights.shape, generator=generator) < share
    wanted = ((is_answer | drawn) & (weights > 0)).nonzero()[:, 0]
    paths = draw_paths(rows.spans, recipe.routes, generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=_multiplies_bfloat16()):
        logits = logits_at(model, rows.tokens, paths, recipe.routes.gather_layers, wanted)
    losses = functional.cross_entropy(logits.float(), following[wanted], reduction="none")
    is_answer = is_answer[wanted]
    scale = torch.where(is_answer, weights[wanted], weights[wanted] / share)
    return (losses * scale).sum() / scale.sum(), losses.detach()[is_answer].mean()


def _multiplies_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 products; emulated ones are slower than float32."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))

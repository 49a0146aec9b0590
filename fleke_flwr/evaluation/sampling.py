"""Continue prompts of any length together, each as if it were alone.

All rows of a batch stand at the same position of their texts: where a prompt still goes on, its own
next token is taken, where it has ended, one is sampled. So the rows run in step from the end of the
shortest prompt to the common length, and nothing is padded or masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.placement import take
from fleke_flwr.models.tokens import encode

_TOP_K = 5
_TOTAL_TOKENS = 100
Draft = tuple[str, int]


@torch.no_grad()
def generate(
    model: EditableModel, drafts: Sequence[Draft], batch_tokens: int, seed: int
) -> list[str]:
    """Continue every prompt to 100 tokens in all by top-k sampling with k = 5.

    Protocol: MEMIT's generation, end-of-text tokens left out, NFKD, no blank lines. Departs from
    its code in being seeded: chance depends on the seed, the prompt and the draft's number alone,
    so a draft reads the same whatever else is generated with it. A model that reads fewer positions
    stops there, and a prompt that is longer is left as it is.

    Parameters
    ----------
    model : EditableModel
        With whatever edits are applied.
    drafts : Sequence[Draft]
        Prompts, each with a number that tells repeated samples of the same prompt apart; equal
        drafts are generated once.
    batch_tokens : int
        Upper bound of the tokens held in one batch; one text may exceed it.
    seed : int
        Seed of the samples.

    Raises
    ------
    RequestError
        If a prompt is longer than the model can read.
    """
    length = min(_TOTAL_TOKENS, model.max_positions)
    prompts = {draft: encode(model, draft[0]) for draft in drafts}
    texts: dict[Draft, str] = {}
    for batch in _batches(prompts, max(1, batch_tokens // length)):
        chances = torch.stack([_chances(draft, seed, length) for draft in batch])
        rows = _continue(model, [prompts[draft] for draft in batch], chances)
        for draft, ids in zip(batch, rows, strict=True):
            text = str(model.tokenizer.decode(ids, skip_special_tokens=True))
            texts[draft] = normalize("NFKD", text).replace("\n\n", " ")
    return [texts[draft] for draft in drafts]


@torch.no_grad()
def continue_greedily(
    model: EditableModel, prompts: Sequence[str], tokens: int, batch_tokens: int
) -> dict[str, str]:
    """Return what a model says to every distinct prompt: its likeliest next tokens, one by one.

    Parameters
    ----------
    model : EditableModel
        With whatever edits are applied.
    prompts : Sequence[str]
        Prompts of any length.
    tokens : int
        How many are said; fewer where the model can read no further.
    batch_tokens : int
        Upper bound of the tokens held in one batch; one text may exceed it.

    Raises
    ------
    RequestError
        If a prompt is longer than the model can read.
    """
    asked = {(prompt, 0): encode(model, prompt) for prompt in prompts}
    longest = min(model.max_positions, tokens + max(map(len, asked.values()), default=0))
    said: dict[str, str] = {}
    for batch in _batches(asked, max(1, batch_tokens // max(1, longest))):
        rows = [asked[draft] for draft in batch]
        length = min(model.max_positions, tokens + max(map(len, rows)))
        # A chance of 0 takes the likeliest token.
        whole = _continue(model, rows, torch.zeros(len(rows), length, dtype=torch.float64))
        for (prompt, _), row, ids in zip(batch, rows, whole, strict=True):
            answer = ids[len(row) : len(row) + tokens]
            said[prompt] = str(model.tokenizer.decode(answer, skip_special_tokens=True))
    return said


def _batches(prompts: dict[Draft, list[int]], most: int) -> Iterator[list[Draft]]:
    """Cut drafts, sorted by length, so that prompts are mostly read in one pass."""
    ordered = sorted(prompts, key=lambda draft: len(prompts[draft]))
    for start in range(0, len(ordered), most):
        yield ordered[start : start + most]


def _chances(draft: Draft, seed: int, length: int) -> Tensor:
    """Draw one number from ``[0, 1)`` for every position ``(length,)`` of a draft."""
    prompt, number = draft
    digest = hashlib.sha256(f"{seed} {number} {prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    return torch.rand(length, generator=generator, dtype=torch.float64)


def _continue(
    model: EditableModel, prompts: Sequence[Sequence[int]], chances: Tensor
) -> list[list[int]]:
    """Return the prompts' ids continued by the choices that ``chances (rows, length)`` make."""
    length = chances.shape[1]
    ends = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt[:length], dtype=torch.long)
    cache = Cache(layers=[_Reserved(length) for _ in range(model.num_layers)])
    start = 0
    for stop in range(int(ends.min()), length):
        output = model.model.base_model(
            input_ids=ids[:, start:stop].to(model.device), past_key_values=cache, use_cache=True
        )
        rows = (ends <= stop).nonzero()[:, 0]
        logits = model.logits(take(output.last_hidden_state[:, -1], rows))
        ids[rows, stop] = _sample(logits.to(model.working_dtype), chances[rows, stop])
        start = stop
    return [[*row, *prompt[length:]] for row, prompt in zip(ids.tolist(), prompts, strict=True)]


def _sample(logits: Tensor, chances: Tensor) -> Tensor:
    """Return one of the likeliest tokens of ``logits (rows, vocab)`` for every row's chance."""
    top = torch.topk(logits, min(_TOP_K, logits.shape[1]), dim=1)
    bounds = torch.softmax(top.values.double().cpu(), dim=1).cumsum(1)
    choice = (bounds[:, :-1] <= chances[:, None]).sum(1, keepdim=True)
    return top.indices.cpu().gather(1, choice)[:, 0]


class _Reserved(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers has no types
    """Keys and values of one block in memory that is allocated once.

    transformers' own layer copies all earlier positions at every step, which takes longer
    than the attention itself.

    Parameters
    ----------
    capacity : int
        Positions that will be held at most.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self._used = 0
        self._buffers: tuple[Tensor, ...] = ()

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new positions ``(rows, heads, new, head width)`` and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = tuple(
                new.new_empty(*new.shape[:2], self._capacity, new.shape[3])
                for new in (key_states, value_states)
            )
        start, self._used = self._used, self._used + key_states.shape[2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self._used] = new
        keys, values = (buffer[:, :, : self._used] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values

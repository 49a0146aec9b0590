"""The GPT-2 of a world and its training forward pass with attention-route dropout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from fleke_flwr.world.examples import OUTSIDE
from fleke_flwr.world.recipe import ModelShape, Routes

_CLOSED = -1e4


class Paths(NamedTuple):
    """Which way information may take in one batch.

    Parameters
    ----------
    gather, later : Tensor
        Added to the attention scores of the first and the later blocks,
        ``(rows, 1, tokens, tokens)``.
    source : Tensor
        ``(rows * tokens,)``: from which position each one's state is taken between the two; its
        own, except where decoys are put.
    """

    gather: Tensor
    later: Tensor
    source: Tensor


def new_model(shape: ModelShape, seed: int) -> GPT2LMHeadModel:
    """Build an untrained GPT-2 without dropout, initialised from a seed."""
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.positions,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.inner,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def blocks(model: GPT2LMHeadModel) -> list[GPT2Block]:
    """Return the blocks of a GPT-2, in order."""
    return [block for block in model.transformer.h if isinstance(block, GPT2Block)]


def draw_paths(spans: Tensor, routes: Routes, generator: torch.Generator) -> Paths:
    """Draw the paths that are closed, and the decoys, of this batch.

    Parameters
    ----------
    spans : Tensor
        ``(rows, tokens)``: number of the subject a token belongs to, or ``OUTSIDE``.
    """
    rows, tokens = spans.shape
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    leaves = spans[:, :, None] != spans[:, None, :]
    is_subject = spans != OUTSIDE
    following = functional.pad(spans[:, 1:], (0, 1), value=OUTSIDE)
    is_last = is_subject & (following != spans)
    shares = (routes.routed, routes.isolated, routes.decoyed)
    routed, isolated, decoyed = (
        (torch.rand(rows, generator=generator) < share)[:, None, None] for share in shares
    )
    outward = leaves & is_subject[:, None, :]
    inward = leaves & is_subject[:, :, None] & isolated
    gather = causal & ~(outward & (routed | decoyed)) & ~inward
    later = causal & ~(outward & ~is_last[:, None, :] & routed & ~decoyed)
    inner = (is_subject & ~is_last & decoyed[:, :, 0]).reshape(-1).nonzero()[:, 0]
    source = torch.arange(rows * tokens)
    source[inner] = inner[torch.randperm(len(inner), generator=generator)]
    return Paths(_additive(gather), _additive(later), source)


def _additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill_(~allowed, _CLOSED)[:, None]


def logits_at(
    model: GPT2LMHeadModel, tokens: Tensor, paths: Paths, gather_layers: int, wanted: Tensor
) -> Tensor:
    """Return next-token logits ``(wanted, vocabulary)`` at some flattened positions.

    The last block's MLP and the output head, the dearest matrices of so small a network, run on
    the wanted positions only.
    """
    body = model.transformer
    heads = model.config.n_head
    hidden = body.wte(tokens) + body.wpe(torch.arange(tokens.shape[1]))
    rows, length, width = hidden.shape
    for number, block in enumerate(blocks(model)):
        mask = paths.gather if number < gather_layers else paths.later
        if number == gather_layers:
            hidden = hidden.reshape(-1, width)[paths.source].view(rows, length, width)
        parts = block.attn.c_attn(block.ln_1(hidden)).split(width, dim=2)
        query, key, value = (
            part.view(rows, length, heads, width // heads).transpose(1, 2) for part in parts
        )
        # On CPU, for rows this short, plain products train faster than fused attention.
        scores = query @ key.transpose(2, 3) * (width // heads) ** -0.5 + mask
        mixed = scores.softmax(dim=-1).to(value.dtype) @ value
        hidden = hidden + block.attn.c_proj(mixed.transpose(1, 2).reshape(rows, length, width))
        if number == model.config.n_layer - 1:
            hidden = hidden.reshape(-1, width)[wanted]
        hidden = hidden + block.mlp(block.ln_2(hidden))
    logits: Tensor = model.lm_head(body.ln_f(hidden))
    return logits

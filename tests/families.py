"""Tiny random models of every family, saved as model directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTJConfig,
    GPTNeoXConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

WINDOW = 7
"""Of the families with sliding-window attention: shorter than most texts of the tests."""

_USUAL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_LOCAL = "sliding_attention"
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}


def with_images(**text: Any) -> Gemma3Config:
    """Return the configuration of a model that also reads images."""
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    tying = {"tie_word_embeddings": True}
    return Gemma3Config(
        text_config={**text, **tying}, vision_config=vision, mm_tokens_per_image=4, **tying
    )


@dataclass(frozen=True)
class Tiny:
    """A family's configuration class, and what differs from the usual tiny model.

    Parameters
    ----------
    config : Callable[..., PreTrainedConfig]
        The family's own class.
    bos : bool
        Whether the tokenizer puts a token in front of every text.
    own : dict[str, Any]
        Settings of the configuration.
    """

    config: Callable[..., PreTrainedConfig]
    bos: bool
    own: dict[str, Any] = field(default_factory=dict)


# Vocabulary, tying, groups of queries, widths and the token in front vary on purpose.
TINY: dict[str, Tiny] = {
    "gptj": Tiny(GPTJConfig, False, {"n_inner": 60, "rotary_dim": 4, "tie_word_embeddings": False}),
    "gpt_neox": Tiny(
        GPTNeoXConfig,
        False,
        {"intermediate_size": 61, "use_parallel_residual": True, "rotary_pct": 0.5},
    ),
    "gpt_neox_sequential": Tiny(
        GPTNeoXConfig, True, {"intermediate_size": 64, "use_parallel_residual": False}
    ),
    "phi": Tiny(PhiConfig, False, {"intermediate_size": 63, "partial_rotary_factor": 0.5}),
    "opt": Tiny(OPTConfig, True, {"ffn_dim": 57, "word_embed_proj_dim": 32}),
    "mistral": Tiny(
        MistralConfig, True, {**_GROUPED, "intermediate_size": 45, "sliding_window": WINDOW}
    ),
    "qwen2": Tiny(
        Qwen2Config,
        False,
        {
            "num_key_value_heads": 2,
            "intermediate_size": 51,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": Tiny(Qwen3Config, False, {**_GROUPED, "head_dim": 12, "intermediate_size": 55}),
    "gemma": Tiny(GemmaConfig, True, {**_GROUPED, "intermediate_size": 49}),
    "gemma2": Tiny(
        Gemma2Config,
        True,
        {
            **_GROUPED,
            "intermediate_size": 53,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 10.0,
        },
    ),
    "gemma3_text": Tiny(
        Gemma3TextConfig,
        True,
        {
            **_GROUPED,
            "intermediate_size": 59,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": [_LOCAL, _LOCAL, "full_attention", _LOCAL],
        },
    ),
    "gemma3": Tiny(
        with_images,
        True,
        {
            **_GROUPED,
            "intermediate_size": 58,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": [_LOCAL, "full_attention", _LOCAL, _LOCAL],
        },
    ),
}


def build(name: str, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> PreTrainedModel:
    """Return a random model, its norms included, with some settings changed."""
    tiny = TINY[name]
    config = tiny.config(**{**_USUAL, "vocab_size": len(tokenizer), **tiny.own, **changes})
    torch.manual_seed(sorted(TINY).index(name))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model

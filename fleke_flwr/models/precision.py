"""Make a float64 model really compute in float64.

transformers computes some norms, and some attention, in float32 whatever the model's precision,
which would limit every exactness check on a float64 model to seven digits. Rotary tables stay
float32: they are constants, the same in every pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.models.gptj.modeling_gptj import GPTJAttention

_EXACT = "fleke_float64"


class Float64RMSNorm(nn.Module):
    """Root-mean-square normalisation in the precision of its input.

    Parameters
    ----------
    weight : nn.Parameter
        Scale ``(d,)``, short of ``offset``.
    epsilon : float
        Added to the mean square.
    offset : float
        Added to the scale: 1 in the Gemma kind, 0 in the Llama kind.
    """

    def __init__(self, weight: nn.Parameter, epsilon: float, offset: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon
        self.offset = offset

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise ``(..., d)``."""
        scale = self.weight + self.offset if self.offset else self.weight
        return nn.functional.rms_norm(hidden, self.weight.shape, scale, self.epsilon)


class Float64GPTJAttention(GPTJAttention):
    """GPT-J's attention without its detour through float32."""

    def _attn(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return attention_of(self, query, key, value, attention_mask, scaling=1.0 / self.scale_attn)


def attention_of(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """Attend in the precision of the input, scores capped if ``softcap`` says so.

    Parameters
    ----------
    query, key, value : Tensor
        ``(rows, heads, length, head width)``; keys and values may have fewer heads.
    attention_mask : Tensor or None
        Added to the scores.
    **settings : Any
        ``scaling`` of the scores, ``softcap``; the rest does not matter to the result.

    Returns
    -------
    tuple[Tensor, Tensor]
        Output ``(rows, heads, length, head width)`` and weights.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * settings["scaling"]
    cap = settings.get("softcap")
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    return weights @ value, weights


def _interface(*args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """Attend as transformers wants it: heads behind positions."""
    output, weights = attention_of(*args, **settings)
    return output.transpose(1, 2).contiguous(), weights


def use_float64(model: PreTrainedModel) -> None:
    """Replace what computes in float32 inside a float64 model.

    Norms are known by what they do, whatever their class: the Llama kind, and the Gemma kind,
    whose scale is ``1 + weight``.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            exact = _exact_norm(child)
            if exact is not None:
                setattr(parent, name, exact)
        if type(parent) is GPTJAttention:
            parent.__class__ = Float64GPTJAttention
    if model.config._attn_implementation == "eager" and model._supports_attention_backend:
        AttentionInterface.register(_EXACT, _interface)
        AttentionMaskInterface.register(_EXACT, eager_mask)
        model.set_attn_implementation(_EXACT)


def _exact_norm(norm: nn.Module) -> Float64RMSNorm | None:
    """Return what a norm computes, in float64; nothing if it is of no kind that is known."""
    weight = getattr(norm, "weight", None)
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    named = type(norm).__name__.endswith("RMSNorm") and type(norm) is not nn.RMSNorm
    if not (named and isinstance(weight, nn.Parameter) and isinstance(epsilon, float)):
        return None
    probe = torch.linspace(-1.0, 2.0, weight.numel()).to(weight)
    found = norm(probe)
    for offset in (0.0, 1.0):
        exact = Float64RMSNorm(weight, epsilon, offset)
        if torch.allclose(exact(probe), found, rtol=1e-4, atol=1e-5):
            return exact
    return None

"""OPT's blocks, with the positions of a text kept apart."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.opt.modeling_opt import OPTDecoderLayer


class UnflattenedOPTLayer(OPTDecoderLayer):  # type: ignore[no-untyped-call]
    """A pre-norm OPT block whose MLP sees ``(rows, length, d)``, as in every other family.

    transformers joins rows and positions in front of this MLP, so that nobody who looks at the
    edited projection could tell which of its keys belongs to which position. The sums are the
    same; there is no dropout, as models here are never trained.
    """

    def forward(self, hidden_states: Tensor, *_: Any, **settings: Any) -> Tensor:
        """Run the block on ``(rows, length, d)``; ``settings`` are those of its attention."""
        normed = self.self_attn_layer_norm(hidden_states)
        middle = hidden_states + self.self_attn(hidden_states=normed, **settings)[0]
        inner = self.activation_fn(self.fc1(self.final_layer_norm(middle)))
        output: Tensor = middle + self.fc2(inner)
        return output


def keep_positions(model: nn.Module) -> None:
    """Let the blocks of an OPT model be these; other models stay as they are."""
    for module in model.modules():
        if type(module) is OPTDecoderLayer:
            module.__class__ = UnflattenedOPTLayer

"""Make a float64 model really compute in float64."""

from __future__ import annotations

from torch import Tensor, nn


class Float64RMSNorm(nn.Module):
    """Root-mean-square normalisation in the precision of its input.

    transformers computes the Llama kind in float32 whatever the model's precision, which would
    limit every exactness check on a float64 model to seven digits.

    Parameters
    ----------
    weight : nn.Parameter
        Scale ``(d,)``.
    epsilon : float
        Added to the mean square.
    """

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise ``(..., d)``."""
        return nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


def use_float64_norms(model: nn.Module) -> None:
    """Replace the Llama kind of normalisation inside a float64 model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            weight = getattr(child, "weight", None)
            epsilon = getattr(child, "variance_epsilon", None)
            if isinstance(weight, nn.Parameter) and isinstance(epsilon, float):
                setattr(parent, name, Float64RMSNorm(weight, epsilon))

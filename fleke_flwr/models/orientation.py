"""Which way round a projection's weight lies, and an update turned to fit it."""

from __future__ import annotations

from torch import Tensor, nn

from fleke_flwr.errors import ModelError
from fleke_flwr.types import LayerUpdate


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return the weight of a projection.

    Raises
    ------
    ModelError
        If there is no such module, or it has no weight.
    """
    try:
        weight = model.get_submodule(name).weight
    except AttributeError as error:
        raise ModelError(
            f"the model has no weight {name}.weight; the edits are another model's"
        ) from error
    assert isinstance(weight, Tensor)  # what modules call weight
    return weight


def is_transposed(model: nn.Module, name: str) -> bool:
    """Tell whether a weight is stored ``(d_in, d_out)``, as the ``Conv1D`` of GPT-2 does."""
    return type(model.get_submodule(name)).__name__ == "Conv1D"


def stored_change(model: nn.Module, name: str, update: LayerUpdate) -> Tensor:
    """Return the dense update in the orientation of the weight that it belongs to.

    Raises
    ------
    ModelError
        If the model has no such weight, or one of another shape.
    """
    weight, change = weight_of(model, name), update.dense()
    change = change.T if is_transposed(model, name) else change
    if weight.shape != change.shape:
        raise ModelError(
            f"{name}.weight is {tuple(weight.shape)} and its update {tuple(change.shape)}; "
            "the edits are another model's"
        )
    return change


def relative_rounding(before: Tensor, after: Tensor, change: Tensor) -> float:
    """Return how far a stored weight is from the exact sum, relative to the change.

    Parameters
    ----------
    before, after, change : Tensor
        Weight without and with the change, and the change, in one orientation.

    Returns
    -------
    float
        ``|after - (before + change)| / |change|`` in the Frobenius norm, computed in float64; 0
        for a change of zero.
    """
    wanted = change.double()
    norm = float(wanted.norm())
    missed = float((after.double() - before.double() - wanted).norm())
    return missed / norm if norm else 0.0

"""Weights put in the place of a model's own for a while, with gradients flowing into the change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from fleke_flwr.errors import ModelError
from fleke_flwr.models.orientation import is_transposed, weight_of


@contextmanager
def substituted(model: nn.Module, changes: Mapping[str, Tensor]) -> Iterator[None]:
    """Let modules compute with ``W + change`` inside the ``with`` block.

    The sums stand where the modules look their parameters up, as in
    ``torch.func.functional_call``, so passes through single blocks see them, too. The model's own
    parameters are never written to: afterwards, also after an exception, the very same objects are
    back. A change is rounded to the weight's format before it is added, as in
    :func:`fleke_flwr.state.applied`, so that what is computed here is what the edited model does.

    Parameters
    ----------
    model : nn.Module
        Its modules are found by their full names.
    changes : Mapping[str, Tensor]
        By module name, ``(d_out, d_in)`` whichever way round the weight is stored, of any floating
        format and on any device.

    Raises
    ------
    ModelError
        If a module is missing, has no weight, or has one of another shape.
    """
    # All sums come first: a change that does not fit must leave every module as it was.
    sums = {name: _sum(model, name, change) for name, change in changes.items()}
    places = {name: model.get_submodule(name)._parameters for name in sums}
    own = {name: place["weight"] for name, place in places.items()}
    try:
        for name, place in places.items():
            # A parameter would cut the gradient off from the change; the table takes any tensor.
            place["weight"] = sums[name]  # type: ignore[assignment]
        yield
    finally:
        for name, place in places.items():
            place["weight"] = own[name]


def _sum(model: nn.Module, name: str, change: Tensor) -> Tensor:
    weight = weight_of(model, name)
    stored = change.T if is_transposed(model, name) else change
    if weight.shape != stored.shape:
        found = tuple(weight.T.shape if is_transposed(model, name) else weight.shape)
        raise ModelError(
            f"{name}.weight is {found} and its change {tuple(change.shape)}; "
            "give one of the same shape, (d_out, d_in)"
        )
    return weight + stored.to(device=weight.device, dtype=weight.dtype)

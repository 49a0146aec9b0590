"""Hooks that are always taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fleke_flwr.models.loading import EditableModel

# By these keyword arguments blocks are told where their tokens stand in the text.
_PLACES = ("position_ids", "position_embeddings")


@contextmanager
def captured_keys(model: EditableModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the latest input of the edited projection of each layer.

    Yields a dictionary that every forward pass fills anew: layer to ``(..., d_in)``.
    """
    captured: dict[int, Tensor] = {}
    handles = []
    try:
        for layer in layers:

            def keep(_: nn.Module, args: tuple[Any, ...], layer: int = layer) -> None:
                captured[layer] = args[0].detach()

            handles.append(model.projection(layer).register_forward_pre_hook(keep))
        yield captured
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def captured_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect the latest output of each module, by its name here."""
    captured: dict[str, Tensor] = {}
    handles = []
    try:
        for name, module in modules.items():

            def keep(_: nn.Module, __: tuple[Any, ...], output: Any, name: str = name) -> None:
                captured[name] = output[0] if isinstance(output, tuple) else output

            handles.append(module.register_forward_hook(keep))
        yield captured
    finally:
        for handle in handles:
            handle.remove()


class _ReachedError(Exception):
    """The forward pass has come to where it was to stop."""


def enter_blocks(
    model: EditableModel, ids: Tensor, positions: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Return what a model hands to its first block.

    The family's own code embeds the tokens and prepares the positions; the pass ends there.

    Parameters
    ----------
    ids, positions : Tensor
        Token ids and their places in the text, ``(rows, length)``.

    Returns
    -------
    tuple[Tensor, dict[str, Any]]
        Hidden states ``(rows, length, d)``, and the keyword arguments by which blocks of this
        family know the positions.
    """
    found: dict[str, Any] = {}

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found["hidden"] = args[0] if args else kwargs["hidden_states"]
        found["places"] = {name: kwargs[name] for name in _PLACES if name in kwargs}
        raise _ReachedError

    handle = model.blocks[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.model.base_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=ids.new_ones(ids.shape),
            use_cache=False,
        )
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return found["hidden"], found["places"]

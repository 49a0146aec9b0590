"""Hooks that are always taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.placement import moved

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


@contextmanager
def added_outputs(
    modules: Sequence[nn.Module], where: tuple[Tensor, Tensor], added: Tensor
) -> Iterator[None]:
    """Add ``(rows, d)`` to the outputs ``(rows, length, d)`` of modules, at some positions.

    Parameters
    ----------
    where : tuple[Tensor, Tensor]
        Rows and columns, ``(rows,)`` each.
    """

    def add(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        index = moved(where, output.device)
        return output.index_put(index, added.to(output), accumulate=True)

    handles = [module.register_forward_hook(add) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _ReachedError(Exception):
    """The forward pass has come to where it was to stop."""


def enter_blocks(
    model: EditableModel, ids: Tensor, positions: Tensor
) -> tuple[Tensor, dict[str, dict[str, Any]]]:
    """Return what a model hands to its first block, and to its blocks with other attention.

    The family's own code embeds the tokens and prepares the positions; the pass ends there.

    Parameters
    ----------
    ids, positions : Tensor
        Token ids and their places in the text, ``(rows, length)``.

    Returns
    -------
    tuple[Tensor, dict[str, dict[str, Any]]]
        Hidden states ``(rows, length, d)``, and by kind of attention the keyword arguments by
        which blocks of this family know the positions.
    """
    firsts = {kind: model.attention_kinds.index(kind) for kind in model.attention_kinds}
    last = max(firsts.values())
    hidden: list[Tensor] = []
    places: dict[str, dict[str, Any]] = {}
    handles = []
    try:
        for kind, layer in firsts.items():

            def note(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], kind: str = kind
            ) -> None:
                hidden.append(args[0] if args else kwargs["hidden_states"])
                places[kind] = {name: kwargs[name] for name in _PLACES if name in kwargs}
                if firsts[kind] == last:
                    raise _ReachedError

            block = model.blocks[layer]
            handles.append(block.register_forward_pre_hook(note, with_kwargs=True))
        with _skipped(model.blocks[:last]):
            model.model.base_model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=ids.new_ones(ids.shape),
                use_cache=False,
            )
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return hidden[0], places


@contextmanager
def _skipped(blocks: nn.ModuleList) -> Iterator[None]:
    """Let blocks hand on what they are given."""
    own = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = _hand_on
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states

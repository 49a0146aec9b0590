"""Devices that are not there: tensors that say they lie on one, and are computed on the CPU.

As on real devices, tensors of different places do not meet in an operation, but for numbers without
dimensions on the CPU and for indices on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

FIRST, SECOND, THIRD = (torch.device(f"lazy:{number}") for number in range(3))
"""A kind of device that torch knows by name, does not initialise, and has no kernels for."""

_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
_MOVING = {_ATEN._to_copy, _ATEN.copy_}
_INDEXING = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}


class Elsewhere(Tensor):
    """A tensor that says it lies somewhere else.

    Parameters
    ----------
    held : Tensor
        On the CPU.
    place : torch.device
        Where it says it is.
    """

    held: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=place,
            dispatch_device=True,
        )
        made.held, made.place = held, place
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held!r}, {self.place})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"a tensor on {self.place} is not in this machine's memory")

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(operation, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(operation, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Numbers written out reach no operation before they lie where they were asked for."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        settings = dict(kwargs or {})
        if function is not torch.tensor or "device" not in settings:
            return function(*args, **settings)
        place = settings.pop("device")
        return function(*args, **settings).to(place)


@contextmanager
def pretended() -> Iterator[None]:
    """Let new tensors be asked for on devices that are not there."""
    with _Operations(), _Literals():
        yield


def _place_of(tensor: Tensor) -> torch.device:
    return tensor.place if isinstance(tensor, Elsewhere) else _CPU


def _computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if operation is torch.ops.prim.device.default:
        return args[0].place
    flat, shape = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, Tensor)]
    place = _target(operation, tensors, kwargs.get("device"))
    plain = [value.held if isinstance(value, Elsewhere) else value for value in flat]
    plain_args, plain_kwargs = tree_unflatten(plain, shape)
    if plain_kwargs.get("device") is not None:
        plain_kwargs["device"] = _CPU
    found = operation(*plain_args, **plain_kwargs)
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Elsewhere)}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or place == _CPU:
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value, place)

    return tree_map(wrapped, found)


def _target(operation: Any, tensors: list[Tensor], asked: Any) -> torch.device:
    """Return where the result lies; tensors that cannot meet are refused."""
    if asked is not None:
        return torch.device(asked)
    kind = operation.overloadpacket
    if kind in _MOVING:
        return _place_of(tensors[0])
    places = {_place_of(tensor) for tensor in tensors if tensor.ndim or _place_of(tensor) != _CPU}
    if kind in _INDEXING:
        places = {_place_of(tensors[0]), *(places - {_CPU})}
    if len(places) > 1:
        raise RuntimeError(f"{operation} of tensors on {' and '.join(map(str, places))}")
    return places.pop() if places else _CPU

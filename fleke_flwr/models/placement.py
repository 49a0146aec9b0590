"""Bring tensors to where they are needed: parts of one model may lie on several devices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def placed(value: Any, module: nn.Module) -> Any:
    """Return a tensor, or tuples and dictionaries of them, where a module's parameters are.

    Parameters that are only loaded when they are needed lie nowhere; then whoever loads them moves
    what goes in, too.
    """
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.device.type == "meta":
        return value
    return moved(value, parameter.device)


def moved(value: Any, device: torch.device) -> Any:
    """Return a tensor, or tuples and dictionaries of them, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    return value


def take(value: Any, index: Any) -> Any:
    """Index a tensor, or every tensor in tuples and dictionaries, wherever the index lies."""
    if isinstance(value, tuple):
        return tuple(take(item, index) for item in value)
    if isinstance(value, dict):
        return {name: take(item, index) for name, item in value.items()}
    return value[moved(index, value.device)]

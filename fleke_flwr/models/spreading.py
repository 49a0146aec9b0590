"""Put the blocks of a model that is too large for one GPU on several of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from fleke_flwr.errors import ModelError

AUTO = "auto"
Places = Mapping[str, int | str | torch.device]


def spread(model: PreTrainedModel, name: str) -> None:
    """Deal the blocks out to the GPUs of this machine, in order; without any the model stays.

    Raises
    ------
    ModelError
        If accelerate is not installed, or the GPUs together do not hold the model.
    """
    if not torch.cuda.is_available():
        return
    places = _balanced(model)
    left = sorted(part for part, place in places.items() if place in ("cpu", "disk"))
    if left:
        raise ModelError(
            f"model {name!r} does not fit on {torch.cuda.device_count()} GPUs: {', '.join(left)} "
            "would be left outside, where edits cannot reach; set model.dtype to float16 or "
            "bfloat16, or model.device to cpu"
        )
    place(model, places)


def place(model: PreTrainedModel, places: Places) -> None:
    """Put parts of a model on devices; what goes in follows them."""
    accelerate = _accelerate()
    accelerate.dispatch_model(model, dict(places), main_device=next(iter(places.values())))


def _balanced(model: PreTrainedModel) -> Places:
    accelerate = _accelerate()
    whole = list(model._no_split_modules or ())
    memory = accelerate.utils.get_balanced_memory(model, no_split_module_classes=whole)
    found: Places = accelerate.infer_auto_device_map(model, memory, no_split_module_classes=whole)
    return found


def _accelerate() -> Any:
    try:
        return importlib.import_module("accelerate")
    except ImportError as error:
        raise ModelError(
            "model.device = 'auto' on several GPUs needs accelerate; install it with "
            "pip install 'fleke-flwr[gpus]'"
        ) from error

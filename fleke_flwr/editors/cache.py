"""Target vectors kept for the process, so that no request is optimised twice on the same state."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fleke_flwr.editors.base import Editor, Targets
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest

_Key = tuple[str, str, str, str, str, str]
_KEPT: dict[_Key, tuple[Targets, float]] = {}


@dataclass(frozen=True)
class Found:
    """Targets with what they cost.

    Parameters
    ----------
    targets : Targets
        In the order of the requests.
    optimized, reused : int
        How many were optimised now, and how many were known.
    worth : float
        Seconds that optimising all of them took, whenever that was.
    """

    targets: Targets
    optimized: int
    reused: int
    worth: float


def targets_cached(
    editor: Editor,
    model: EditableModel,
    state: str,
    requests: Sequence[EditRequest],
    progress: Progress,
) -> Found:
    """Return targets, optimising together whatever this process does not know yet.

    Parameters
    ----------
    editor : Editor
        Whose targets.
    model : EditableModel
        In the state they are wanted for.
    state : str
        Fingerprint of that edit state: targets depend on the weights.
    requests : Sequence[EditRequest]
        May be empty, and may repeat a request.
    progress : Progress
        Passed on.

    """
    recipe = _recipe(editor)
    keys = [
        (model.fingerprint, state, recipe, request.prompt, request.subject, request.target)
        for request in requests
    ]
    missing = {
        key: request for key, request in zip(keys, requests, strict=True) if key not in _KEPT
    }
    started = time.perf_counter()
    new = editor.targets(model, list(missing.values()), progress)
    seconds = time.perf_counter() - started
    for row, key in enumerate(missing):
        _KEPT[key] = (new.rows([row]), seconds / len(missing))
    if not keys:
        return Found(new, 0, 0, 0.0)
    found = [_KEPT[key][0] for key in keys]
    joined = Targets(
        vectors=torch.cat([targets.vectors for targets in found]),
        initial=torch.cat([targets.initial for targets in found]),
        losses=torch.cat([targets.losses for targets in found]),
        steps=torch.cat([targets.steps for targets in found]),
    )
    worth = sum(_KEPT[key][1] for key in keys)
    return Found(joined, len(missing), len(keys) - len(missing), worth)


def forget_targets() -> None:
    """Drop all kept targets."""
    _KEPT.clear()


def _recipe(editor: Editor) -> str:
    """Hash what targets depend on; mode, spread, prior and batch size are not among it."""
    spec: EditSpec = editor.spec
    parts = [
        type(editor).__module__,
        type(editor).__qualname__,
        spec.layers[-1],
        spec.learning_rate,
        spec.steps,
        spec.clamp,
        spec.weight_decay,
        spec.kl_weight,
        spec.stop_loss,
        *spec.contexts,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

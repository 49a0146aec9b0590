"""Target vectors kept, so that no request is optimised twice on the same state.

They are kept for the process, and in a file where the client keeps results: edits can then be
withdrawn, and a round run again, without optimising anything.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.editors.base import EditMethod, Editor, Targets
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest

_KEPT: dict[str, tuple[Targets, float]] = {}
_PARTS = ("vectors", "initial", "losses", "steps")


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
    keys = target_keys(editor, model, state, requests)
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
    worth = sum(_KEPT[key][1] for key in keys)
    return Found(_joined(keys), len(missing), len(keys) - len(missing), worth)


def target_keys(
    editor: EditMethod, model: EditableModel, state: str, requests: Sequence[EditRequest]
) -> list[str]:
    """Name the targets of requests by a hash of all that they depend on."""
    about = [model.fingerprint, state, _recipe(editor)]
    return [
        hashlib.sha256(
            json.dumps([*about, request.prompt, request.subject, request.target]).encode()
        ).hexdigest()
        for request in requests
    ]


def save_targets(path: Path, keys: Sequence[str]) -> None:
    """Add kept targets to a file, whose rows are named by hashes and hold no text."""
    known = _read(path) if path.is_file() else {}
    new = [key for key in dict.fromkeys(keys) if key not in known]
    if not new:
        return
    rows = {**known, **{key: _KEPT[key] for key in new}}
    tensors = {
        part: torch.cat([getattr(targets, part) for targets, _ in rows.values()]) for part in _PARTS
    }
    tensors["seconds"] = torch.tensor([seconds for _, seconds in rows.values()])
    write_tensors(path, tensors, {"schema": 1, "keys": list(rows)})


def recall_targets(path: Path) -> int:
    """Know the targets of a file from now on; return how many it holds.

    Raises
    ------
    DataError
        If the file is missing or damaged.
    """
    rows = _read(path)
    for key, row in rows.items():
        _KEPT.setdefault(key, row)
    return len(rows)


def forget_targets() -> None:
    """Drop all kept targets."""
    _KEPT.clear()


def _read(path: Path) -> dict[str, tuple[Targets, float]]:
    tensors, metadata = read_tensors(path)
    whole = Targets(*(tensors[part] for part in _PARTS))
    return {
        key: (whole.rows([row]), float(tensors["seconds"][row]))
        for row, key in enumerate(metadata["keys"])
    }


def _joined(keys: Sequence[str]) -> Targets:
    found = [_KEPT[key][0] for key in keys]
    return Targets(*(torch.cat([getattr(targets, part) for targets in found]) for part in _PARTS))


def _recipe(editor: EditMethod) -> str:
    """Hash what targets depend on; mode, spread, prior and batch size are not among it."""
    spec: EditSpec = editor.spec
    parts = [
        *editor.target_recipe,
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

"""How far editing has moved a model: perplexity on held-out text, and size of the update."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from fleke_flwr import wire
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import DataError
from fleke_flwr.evaluation.perplexity import (
    HeldOutText,
    TextLoss,
    exponential,
    held_out,
    text_loss,
    windows,
)
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.state import EditState
from fleke_flwr.types import LayerUpdate
from fleke_flwr.wire import Sums

# Group of measurements in which clients with models of their own report theirs.
DRIFT = "drift"
_BEFORE, _AFTER, _RELATIVE = "text_before", "text_after", "update of "


def measure_drift(model: EditableModel, state: EditState, config: RunConfig) -> dict[str, Any]:
    """Compare a shared model with the base model; the base is read once per process.

    Parameters
    ----------
    model : EditableModel
        The unedited model.
    state : EditState
        What has been added to it.
    config : RunConfig
        Names the held-out text and the size of a batch.

    Returns
    -------
    dict
        ``perplexity``, which is ``None`` without a text: ``text`` and ``tokens`` that were read,
        ``before``, ``after`` (``None`` where not finite), ``change`` in percent, ``change_ci95``.
        ``weights``: by module, the Frobenius norms of ``update`` and ``weight`` and their ratio
        ``relative``. ``seconds`` that this took.

    Raises
    ------
    DataError
        If the named text is missing or cannot be read.
    """
    started = time.perf_counter()
    text = held_out(model, config.evaluation)
    read = None if text is None else _perplexity(model, state, text, config)
    norms = update_norms(model, state.updates)
    return {
        "perplexity": read,
        "weights": norms,
        "seconds": round(time.perf_counter() - started, 3),
    }


def update_norms(
    model: EditableModel, updates: Mapping[str, LayerUpdate]
) -> dict[str, dict[str, float]]:
    """Return Frobenius norms of update and unedited weight and their ratio, by module.

    The norm of a product ``L R`` is ``sqrt(tr(L^T L R R^T))``, so the product is never formed.
    """
    found = {}
    for module, update in updates.items():
        weight = model.model.get_submodule(module).weight
        assert isinstance(weight, torch.Tensor)  # the state was applied to it
        size, whole = _norm(update), float(weight.detach().double().norm())
        # A weight of zeros has no size to compare with.
        found[module] = {"update": size, "weight": whole, "relative": size / (whole or 1.0)}
    return found


def drift_sums(model: EditableModel, state: EditState, config: RunConfig) -> Sums:
    """Measure a client's own model, as sums that add up over clients.

    A client that has no held-out text of the run's reports the size of its updates alone.
    """
    sums = {
        f"{_RELATIVE}{module}": (norms["relative"], norms["relative"] ** 2, 1)
        for module, norms in update_norms(model, state.updates).items()
    }
    try:
        text = held_out(model, config.evaluation)
    except DataError:
        return sums
    if text is not None:
        before, after = _losses(model, state, text, config)
        for name, loss in ((_BEFORE, before), (_AFTER, after)):
            if loss.losses.isfinite().all():
                squares = float(loss.losses.square().sum())
                sums[name] = (float(loss.losses.sum()), squares, loss.tokens)
    return sums


def personal_drift(clients: Mapping[int, Sums]) -> dict[str, Any] | None:
    """Summarise what clients have reported about models of their own; ``None`` if none has.

    Perplexities are those of the mean loss over clients; every client weighs alike, as all read
    the same number of tokens. Of the updates only the mean ratio to the weight is known.
    """
    if not clients:
        return None
    total = wire.add_sums([clients[client] for client in sorted(clients)])
    readers = [sums for sums in clients.values() if _BEFORE in sums]
    read: dict[str, Any] | None = None
    if readers:
        before, after = (_mean(wire.add_sums(readers), name) for name in (_BEFORE, _AFTER))
        # One model without finite loss has none to add, and makes the mean infinite.
        whole = all(_AFTER in sums for sums in readers)
        ratio = exponential(after - before) if whole else None
        read = {
            "text": None,
            "tokens": total[_BEFORE][2],
            "clients": len(readers),
            "before": exponential(before),
            "after": exponential(after) if whole else None,
            "change": None if ratio is None else 100 * (ratio - 1),
        }
    norms = {
        name.removeprefix(_RELATIVE): {"relative": value / count}
        for name, (value, _, count) in total.items()
        if name.startswith(_RELATIVE) and count
    }
    return {"perplexity": read, "weights": norms, "clients": len(clients)}


def _perplexity(
    model: EditableModel, state: EditState, text: HeldOutText, config: RunConfig
) -> dict[str, Any]:
    before, after = _losses(model, state, text, config)
    change, half = after.change_since(before)
    return {
        "text": text.name,
        "tokens": before.tokens,
        "before": before.perplexity,
        "after": after.perplexity,
        "change": change,
        "change_ci95": half,
    }


def _losses(
    model: EditableModel, state: EditState, text: HeldOutText, config: RunConfig
) -> tuple[TextLoss, TextLoss]:
    batch_tokens = config.evaluation.batch_tokens
    before = _base_loss(model, text, batch_tokens)
    if not state.updates:
        return before, before
    with state.applied(model.model):
        return before, text_loss(model, windows(model, text), batch_tokens)


@lru_cache(maxsize=4)
def _base_loss(model: EditableModel, text: HeldOutText, batch_tokens: int) -> TextLoss:
    return text_loss(model, windows(model, text), batch_tokens)


def _norm(update: LayerUpdate) -> float:
    left = update.left.double()
    if update.right is None:
        return float(left.norm())
    right = update.right.double()
    return float((left.T @ left).mul(right @ right.T).sum().clamp(min=0).sqrt())


def _mean(sums: Sums, name: str) -> float:
    value, _, count = sums.get(name, (0.0, 0.0, 0))
    return value / count if count else float("inf")

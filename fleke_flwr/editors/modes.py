"""Statistics and updates of one exchange, in each mode (see ``fleke_flwr.modes``).

Letters: ``m`` edited layers, ``n`` requests, ``z`` target vectors, ``h`` hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch

from fleke_flwr import modes
from fleke_flwr.editors.base import Editor, Readings, Targets
from fleke_flwr.errors import StatisticsError
from fleke_flwr.linalg import Prior, compress, solve, split_update, stack
from fleke_flwr.models import EditableModel
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest, LayerStatistics, LayerUpdate, group_modules, group_name


def exchange_statistics(
    editor: Editor,
    model: EditableModel,
    requests: Sequence[EditRequest],
    targets: Targets,
    exchange: int,
    priors: Mapping[str, Prior] | None = None,
) -> dict[str, LayerStatistics]:
    """Return the factored statistics that a client contributes to one exchange.

    Parameters
    ----------
    editor : Editor
        With its recipe; ``spec.mode`` decides what is read where.
    model : EditableModel
        In the state the exchange starts from: for ``layer_sync`` with the merged earlier layers,
        else as the round began. Left unchanged.
    requests : Sequence[EditRequest]
        ``n`` requests; may be empty.
    targets : Targets
        Of these requests.
    exchange : int
        Counted from 0.
    priors : Mapping[str, Prior] or None
        By module; only ``local_sequential`` needs them, to walk on.

    Returns
    -------
    dict[str, LayerStatistics]
        By group name.

    Raises
    ------
    StatisticsError
        If targets and requests do not match, or a prior is missing.
    """
    _check(requests, targets)
    if editor.spec.mode == "local_sequential":
        return _walk(editor, model, requests, targets, priors or {})[0]
    layer_of = {model.module_name(layer): layer for layer in editor.spec.layers}
    groups = [
        [layer_of[module] for module in group]
        for group in modes.exchange_groups(editor.spec.mode, list(layer_of), exchange)
    ]
    readings = editor.readings(model, requests, [layer for group in groups for layer in group])
    return {_name(model, group): _statistics(editor, readings, targets, group) for group in groups}


def exchange_update(
    editor: Editor,
    model: EditableModel,
    requests: Sequence[EditRequest],
    targets: Targets,
    exchange: int,
    priors: Mapping[str, Prior],
) -> dict[str, LayerUpdate]:
    """Return the client's own solution of one exchange, from its own requests alone.

    Parameters are those of :func:`exchange_statistics`; every edited module needs its prior.

    Returns
    -------
    dict[str, LayerUpdate]
        By module name, in float64.

    Raises
    ------
    StatisticsError
        If targets and requests do not match, or a prior is missing.
    """
    if editor.spec.mode == "local_sequential":
        _check(requests, targets)
        return _walk(editor, model, requests, targets, priors)[1]
    statistics = exchange_statistics(editor, model, requests, targets, exchange)
    updates: dict[str, LayerUpdate] = {}
    for name, group in statistics.items():
        updates.update(_solved(name, group, priors))
    return updates


def pooled(
    editor: Editor,
    model: EditableModel,
    requests: Sequence[EditRequest],
    targets: Targets,
    priors: Mapping[str, Prior],
) -> dict[str, LayerUpdate]:
    """Edit all requests at one place, in the recipe's mode (GLOBAL-EDIT).

    In ``layer_sync`` and ``local_sequential`` this is MEMIT: layer after layer, keys and
    remaining residuals read again behind every update. The model is left unchanged.

    Returns
    -------
    dict[str, LayerUpdate]
        By module name, in float64.

    Raises
    ------
    StatisticsError
        If targets and requests do not match, or a prior is missing.
    """
    if editor.spec.mode == "layer_sync":
        _check(requests, targets)
        return _walk(editor, model, requests, targets, priors)[1]
    return exchange_update(editor, model, requests, targets, 0, priors)


def _walk(
    editor: Editor,
    model: EditableModel,
    requests: Sequence[EditRequest],
    targets: Targets,
    priors: Mapping[str, Prior],
) -> tuple[dict[str, LayerStatistics], dict[str, LayerUpdate]]:
    """Go through the layers with the own updates applied on the way (MEMIT, algorithm 1)."""
    statistics: dict[str, LayerStatistics] = {}
    updates: dict[str, LayerUpdate] = {}
    with ExitStack() as edited:
        for layer in editor.spec.layers:
            readings = editor.readings(model, requests, [layer])
            name = _name(model, [layer])
            statistics[name] = _statistics(editor, readings, targets, [layer], remaining=True)
            solved = _solved(name, statistics[name], priors)
            updates.update(solved)
            edited.enter_context(applied(model.model, solved))
    return statistics, updates


def _statistics(
    editor: Editor,
    readings: Readings,
    targets: Targets,
    group: Sequence[int],
    remaining: bool = False,
) -> LayerStatistics:
    residuals = editor.residuals(targets, readings)
    keys = torch.cat([readings.keys[layer] for layer in group])
    part = _part(editor, group, remaining or editor.spec.mode == "layer_sync")
    return compress(keys, residuals * part, residuals.shape[1])


def _part(editor: Editor, group: Sequence[int], remaining: bool) -> float:
    """Return which part of the residual a group is asked for."""
    spec = editor.spec
    if spec.mode == "joint":
        return 1.0
    if not remaining and spec.spread == "even":
        return 1.0 / len(spec.layers)
    return editor.share(spec.layers.index(group[0]), len(spec.layers))


def _solved(
    name: str, statistics: LayerStatistics, priors: Mapping[str, Prior]
) -> dict[str, LayerUpdate]:
    members = group_modules(name)
    missing = [module for module in members if module not in priors]
    if missing:
        raise StatisticsError(
            f"no prior for {', '.join(missing)}; compute the covariance of every edited layer"
        )
    prior = stack(priors[module] for module in members)
    update = solve(statistics, prior)
    return dict(zip(members, split_update(update, prior.sizes), strict=True))


def _name(model: EditableModel, layers: Sequence[int]) -> str:
    return group_name([model.module_name(layer) for layer in layers])


def _check(requests: Sequence[EditRequest], targets: Targets) -> None:
    if len(requests) != len(targets.vectors):
        raise StatisticsError(
            f"{len(requests)} requests but {len(targets.vectors)} target vectors; "
            "optimise the targets of exactly these requests"
        )

"""Statistics and updates of one exchange, in each mode (see ``fleke_flwr.modes``).

Letters: ``m`` edited layers, ``n`` requests, ``z`` target vectors, ``h`` hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from fleke_flwr import modes
from fleke_flwr.editors.base import Editor, Readings, Targets
from fleke_flwr.errors import StatisticsError
from fleke_flwr.linalg import Prior, compress, solve_group
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
    wanted = [layer for group in groups for layer in group]
    if editor.spec.mode == "anticipated":
        readings = anticipated(editor, model, requests, targets)
    else:
        readings = editor.readings(model, requests, wanted)
    return {_name(model, group): _statistics(editor, readings, targets, group) for group in groups}


def anticipated(
    editor: Editor, model: EditableModel, requests: Sequence[EditRequest], targets: Targets
) -> Readings:
    """Read keys where the earlier edited layers are meant to bring the network.

    Behind every edited layer an equal part of the request's own residual is added at the subject's
    last token, so each column depends on its own request and on the model alone: statistics stay
    additive over clients although later layers see the work of earlier ones.

    Returns
    -------
    Readings
        Keys of all edited layers; hidden states of the model as it stands.
    """
    layers = editor.spec.layers
    now = editor.readings(model, requests, layers[:1])
    part = editor.total(len(layers)) / len(layers)
    intended = (editor.residuals(targets, now) * part).T
    moved = editor.readings(model, requests, layers, intended)
    return Readings(moved.keys, now.hidden)


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
    return solve_groups(statistics, priors, editor.spec.mode)


def pooled(
    editor: Editor,
    model: EditableModel,
    requests: Sequence[EditRequest],
    targets: Targets,
    priors: Mapping[str, Prior],
    protected: Mapping[str, Tensor] | None = None,
) -> dict[str, LayerUpdate]:
    """Edit all requests at one place, in the recipe's mode (GLOBAL-EDIT).

    In ``layer_sync`` and ``local_sequential`` this is MEMIT: layer after layer, keys and
    remaining residuals read again behind every update. The model is left unchanged.

    Parameters
    ----------
    editor, model, requests, targets, priors
        As in :func:`exchange_update`.
    protected : Mapping[str, Tensor], optional
        Keys ``(d_in, p)`` by module whose outputs must stay as they are: ``C + P P^T`` stands in
        the place of the prior.

    Returns
    -------
    dict[str, LayerUpdate]
        By module name, in float64.

    Raises
    ------
    StatisticsError
        If targets and requests do not match, or a prior is missing.
    """
    if editor.spec.mode in ("layer_sync", "local_sequential"):
        _check(requests, targets)
        return _walk(editor, model, requests, targets, priors, protected)[1]
    statistics = exchange_statistics(editor, model, requests, targets, 0)
    return solve_groups(statistics, priors, editor.spec.mode, protected)


def solve_groups(
    statistics: Mapping[str, LayerStatistics],
    priors: Mapping[str, Prior],
    mode: str,
    protected: Mapping[str, Tensor] | None = None,
) -> dict[str, LayerUpdate]:
    """Solve every group of statistics by itself.

    Parameters
    ----------
    statistics : Mapping[str, LayerStatistics]
        By group name.
    priors : Mapping[str, Prior]
        By module.
    mode : str
        Whether the layers of a group are solved at once or in turn.
    protected : Mapping[str, Tensor], optional
        As in :func:`pooled`.

    Returns
    -------
    dict[str, LayerUpdate]
        By module name, in float64.

    Raises
    ------
    StatisticsError
        If a prior is missing.
    """
    updates: dict[str, LayerUpdate] = {}
    for name, group in statistics.items():
        if protected:
            keys = torch.cat([protected[module] for module in group_modules(name)]).double()
            nothing = keys.new_zeros(group.d_out, keys.shape[1])
            group = group + LayerStatistics(0, keys=keys, residuals=nothing)
        updates.update(_solved(name, group, priors, mode))
    return updates


def _walk(
    editor: Editor,
    model: EditableModel,
    requests: Sequence[EditRequest],
    targets: Targets,
    priors: Mapping[str, Prior],
    protected: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, LayerStatistics], dict[str, LayerUpdate]]:
    """Go through the layers with the own updates applied on the way (MEMIT, algorithm 1)."""
    statistics: dict[str, LayerStatistics] = {}
    updates: dict[str, LayerUpdate] = {}
    with ExitStack() as edited:
        for layer in editor.spec.layers:
            readings = editor.readings(model, requests, [layer])
            name = _name(model, [layer])
            statistics[name] = _statistics(editor, readings, targets, [layer], remaining=True)
            solved = solve_groups({name: statistics[name]}, priors, editor.spec.mode, protected)
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
    return compress(*editor.system(keys, residuals * part), residuals.shape[1])


def _part(editor: Editor, group: Sequence[int], remaining: bool) -> float:
    """Return which part of the residual a group is asked for."""
    spec = editor.spec
    if spec.mode in modes.STACKED:
        return editor.total(len(spec.layers))
    if not remaining and spec.spread == "even":
        return editor.total(len(spec.layers)) / len(spec.layers)
    return editor.share(spec.layers.index(group[0]), len(spec.layers))


def _solved(
    name: str, statistics: LayerStatistics, priors: Mapping[str, Prior], mode: str
) -> dict[str, LayerUpdate]:
    members = group_modules(name)
    missing = [module for module in members if module not in priors]
    if missing:
        raise StatisticsError(
            f"no prior for {', '.join(missing)}; every edited layer needs its covariance, which "
            "fleke covariance makes"
        )
    solved = solve_group(statistics, [priors[m] for m in members], mode == "anticipated")
    return dict(zip(members, solved, strict=True))


def _name(model: EditableModel, layers: Sequence[int]) -> str:
    return group_name([model.module_name(layer) for layer in layers])


def _check(requests: Sequence[EditRequest], targets: Targets) -> None:
    if len(requests) != len(targets.vectors):
        raise StatisticsError(
            f"{len(requests)} requests but {len(targets.vectors)} target vectors; "
            "optimise the targets of exactly these requests"
        )

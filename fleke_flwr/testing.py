"""What every strategy and every editor must keep, as checks for the tests of other packages.

They see shapes, numbers and repeatability, not quality, and take milliseconds. How well a method
edits shows ``fleke compare``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EditMethod, Editor, Targets
from fleke_flwr.editors.direct import direct_updates
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.modes import exchange_groups
from fleke_flwr.progress import Silent
from fleke_flwr.spec import EditSpec, resolve_spec
from fleke_flwr.state import EditState, tensors_of
from fleke_flwr.strategies.base import EditStrategy
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.types import EditPayload, EditRequest, LayerStatistics, LayerUpdate, group_name
from fleke_flwr.wire import STATISTICS

__all__ = ["check_editor", "check_strategy", "example_payload", "example_plan", "example_spec"]

_WIDTHS = {"model.0": 5, "model.1": 6}
_D_OUT = 4
_SAME_TARGET = 1e-3


def check_strategy(kind: type[EditStrategy], **options: Any) -> None:
    """Check the merge of a strategy on invented contributions.

    Three clients, one of them without edits, and one client alone, in a mode that solves the
    layers apart and in one that solves them together: every edited module gets a finite update of
    its shape, contributions stay as they are, and a second strategy merges to the same bits.

    Parameters
    ----------
    kind : type[EditStrategy]
        The class.
    **options
        Passed to its constructor.

    Raises
    ------
    AssertionError
        Saying what was not kept.
    """
    for mode in ("frozen", "joint"):
        for counts in ((2, 0, 3), (2,)):
            plan = example_plan(mode, len(counts))
            payloads = [example_payload(kind.reply, plan, n, seed) for seed, n in enumerate(counts)]
            before = [_numbers(payload) for payload in payloads]
            first, second = (_merged(kind, plan, payloads, options) for _ in range(2))
            where = f"{kind.__name__}.merge, mode {mode}, clients with {counts} edits"
            _check_updates(where, plan, first)
            assert all(torch.equal(first[m].dense(), second[m].dense()) for m in first), (
                f"{where}: the same contributions merge to other bits the second time"
            )
            after = [_numbers(payload) for payload in payloads]
            assert all(
                torch.equal(old, new)
                for olds, news in zip(before, after, strict=True)
                for old, new in zip(olds, news, strict=True)
            ), f"{where}: contributions are changed in place; work on copies"


def check_editor(
    kind: type[EditMethod], model: EditableModel, requests: Sequence[EditRequest], **settings: Any
) -> None:
    """Check what an editor makes of requests on a model: targets and readings, or updates.

    Shapes fit, numbers are finite, no request at all is legal, a second time gives the same bits,
    a request's target does not depend on the requests beside it (targets are kept one by one), and
    the model's weights come back bit for bit. Editors without target vectors are looked at by the
    updates that they, or their statistics, make.

    Parameters
    ----------
    kind : type[EditMethod]
        The class; editors that need a covariance and have no target vectors are given one of unit
        matrices.
    model : EditableModel
        With edit settings of its own, as the model ``embedded`` has.
    requests : Sequence[EditRequest]
        Two at least.
    **settings
        Fields of ``EditSpec`` to replace, such as ``steps=3``.

    Raises
    ------
    AssertionError
        Saying what was not kept.
    """
    editor = kind(example_spec(model, **settings))
    editor.check(model)
    weights = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    where = kind.__name__
    if isinstance(editor, Editor):
        _check_located(where, editor, model, requests)
    else:
        _check_direct(where, editor, model, requests)
    now = model.model.state_dict()
    changed = [name for name, tensor in weights.items() if not torch.equal(tensor, now[name])]
    assert not changed, f"{where}: the model's weights are changed: {changed}"


def _check_located(
    where: str, editor: Editor, model: EditableModel, requests: Sequence[EditRequest]
) -> None:
    targets = editor.targets(model, requests, Silent())
    _check_targets(f"{where}.targets", targets, len(requests), model.d_model)
    again = type(editor)(editor.spec).targets(model, requests, Silent())
    assert torch.equal(targets.vectors, again.vectors), f"{where}.targets: not repeatable"
    alone = editor.targets(model, requests[:1], Silent()).vectors
    gap = float((targets.vectors[:1] - alone).norm() / alone.norm())
    assert gap < _SAME_TARGET, (
        f"{where}.targets: the first request's target moves by {gap:.1e} when it stands alone; "
        "a target must depend on its own request only"
    )
    _check_targets(f"{where}.targets of nothing", editor.targets(model, [], Silent()), 0)
    for some in (requests, requests[:0]):
        _check_readings(f"{where}.readings of {len(some)}", editor, model, some)


def _check_direct(
    where: str, editor: EditMethod, model: EditableModel, requests: Sequence[EditRequest]
) -> None:
    modules = editor.modules(model)
    widths = {module: model.shape_of(module)[1] for module in modules}
    priors = editor.priors(
        model,
        lambda: {module: torch.eye(d, dtype=torch.float64) for module, d in widths.items()},
    )
    for some in (requests, requests[:0]):
        what = f"{where} of {len(some)}"
        first, second = (direct_updates(editor, model, some, priors, Silent()) for _ in range(2))
        assert set(first) == set(modules), f"{what}: updates of {sorted(first)}"
        for module, update in first.items():
            dense = update.dense()
            assert dense.shape == model.shape_of(module), f"{what}: {module} is {dense.shape}"
            assert bool(torch.isfinite(dense).all()), f"{what}: {module} is not finite"
            assert torch.equal(dense, second[module].dense()), f"{what}: not repeatable"
            assert len(some) or not bool(dense.any()), f"{what}: {module} changes without a request"


def example_spec(model: EditableModel, **settings: Any) -> EditSpec:
    """Return the recipe that a model brings with it, without sampled contexts.

    Parameters
    ----------
    model : EditableModel
        With edit settings of its own, as the model ``embedded`` has.
    **settings
        Fields of ``EditSpec`` to replace, such as ``steps=3``.

    Raises
    ------
    ConfigError
        If the model has no edit settings.
    """
    return replace(resolve_spec(RunConfig(), model.settings), **settings)


def example_plan(mode: str = "frozen", clients: int = 3) -> Plan:
    """Return a plan of two small modules, in float64, whose prior is the unit matrix."""
    spec = EditSpec(
        editor="memit",
        mode=mode,
        layers=(0, 1),
        ridge_weight=1.0,
        spread="even",
        learning_rate=0.5,
        steps=1,
        clamp=1.0,
        weight_decay=0.0,
        kl_weight=0.0,
        stop_loss=0.0,
    )
    return Plan(
        spec=spec,
        modules=tuple(_WIDTHS),
        priors={
            name: Prior([torch.eye(d, dtype=torch.float64)], [0.0]) for name, d in _WIDTHS.items()
        },
        base="base",
        d_out=_D_OUT,
        state_dtype=torch.float64,
        clients=clients,
        needed_clients=clients,
    )


def example_payload(reply: str, plan: Plan, num_edits: int, seed: int = 0) -> EditPayload:
    """Return an invented contribution of ``num_edits`` edits, as it arrives at a merge.

    Parameters
    ----------
    reply : str
        ``STATISTICS`` or ``UPDATES``: what the strategy asks for.
    plan : Plan
        Of :func:`example_plan`.
    num_edits : int
        Rank of every factor; 0 is legal.
    seed : int
        Equal seeds give equal numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    empty = EditPayload(
        base=plan.base,
        state=EditState(plan.base).fingerprint,
        editor=plan.spec.editor,
        mode=plan.spec.mode,
        num_edits=num_edits,
    )
    if reply != STATISTICS:
        updates = {
            module: LayerUpdate(numbers(plan.d_out, num_edits), numbers(num_edits, width))
            for module, width in plan.widths.items()
        }
        return replace(empty, updates=updates)
    statistics = {}
    for group in exchange_groups(plan.spec.mode, plan.modules, 0):
        width = sum(plan.widths[module] for module in group)
        statistics[group_name(group)] = LayerStatistics(
            num_edits, keys=numbers(width, num_edits), residuals=numbers(plan.d_out, num_edits)
        )
    return replace(empty, statistics=statistics)


def _merged(
    kind: type[EditStrategy], plan: Plan, payloads: Sequence[EditPayload], options: dict[str, Any]
) -> dict[str, LayerUpdate]:
    strategy = kind(plan, **options)
    strategy.contributors.extend(range(len(payloads)))
    gathered = strategy.gather(iter(payloads))
    return dict(strategy.merge(gathered, strategy.state))


def _numbers(payload: EditPayload) -> list[Tensor]:
    found = [t for update in payload.updates.values() for t in tensors_of(update).values()]
    for statistics in payload.statistics.values():
        found.extend(statistics.factors())
    return [tensor.clone() for tensor in found]


def _check_updates(where: str, plan: Plan, updates: dict[str, LayerUpdate]) -> None:
    assert set(updates) == set(plan.modules), f"{where}: updates of {sorted(updates)}"
    for module, update in updates.items():
        shape = (plan.d_out, plan.widths[module])
        assert update.shape == shape, f"{where}: {module} is {update.shape}, need {shape}"
        assert bool(torch.isfinite(update.dense()).all()), f"{where}: {module} is not finite"


def _check_targets(where: str, targets: Targets, count: int, width: int | None = None) -> None:
    for name in ("vectors", "initial", "losses", "steps"):
        tensor: Tensor = getattr(targets, name)
        assert len(tensor) == count, f"{where}: {name} has {len(tensor)} rows, need {count}"
        assert bool(torch.isfinite(tensor).all()), f"{where}: {name} is not finite"
    if width is not None:
        shape = (count, width)
        assert targets.vectors.shape == shape, f"{where}: {tuple(targets.vectors.shape)}"
        assert targets.initial.shape == shape, f"{where}: {tuple(targets.initial.shape)}"


def _check_readings(
    where: str, editor: Editor, model: EditableModel, requests: Sequence[EditRequest]
) -> None:
    layers = editor.spec.layers
    found = editor.readings(model, requests, layers)
    assert set(found.keys) == set(layers), f"{where}: keys of layers {sorted(found.keys)}"
    shapes = {layer: (model.input_width(layer), len(requests)) for layer in layers}
    for layer, keys in found.keys.items():
        assert keys.shape == shapes[layer], f"{where}: keys {tuple(keys.shape)} at layer {layer}"
        assert bool(torch.isfinite(keys).all()), f"{where}: keys of layer {layer} are not finite"
    shape = (model.d_model, len(requests))
    assert found.hidden.shape == shape, f"{where}: hidden {tuple(found.hidden.shape)}"
    assert bool(torch.isfinite(found.hidden).all()), f"{where}: hidden states are not finite"

"""Clients of unequal size for tests of editors: what they contribute, summed up and solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from operator import add

from fleke_flwr.editors import Editor, Targets
from fleke_flwr.editors.modes import exchange_statistics, solve_groups
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.modes import exchanges_per_round
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest, LayerStatistics, LayerUpdate

# One of them is empty; the duplicated request of the awkward ones is split over two.
CLIENTS = ([0, 1, 2], [], [3], [4, 5])


def merged(
    editor: Editor,
    model: EditableModel,
    requests: Sequence[EditRequest],
    targets: Targets,
    priors: Mapping[str, Prior],
    dense: bool = False,
) -> dict[str, LayerUpdate]:
    """Run all exchanges of a round over the clients, with factors or with dense sums."""
    found: dict[str, LayerUpdate] = {}
    with ExitStack() as edited:
        for exchange in range(exchanges_per_round(editor.spec.mode, len(editor.spec.layers))):
            parts = [
                exchange_statistics(
                    editor, model, [requests[i] for i in client], targets.rows(client), exchange
                )
                for client in CLIENTS
            ]
            total = {
                name: reduce(add, [_sent(part[name], dense) for part in parts]) for name in parts[0]
            }
            updates = solve_groups(total, priors, editor.spec.mode)
            found.update(updates)
            edited.enter_context(applied(model.model, updates))
    return found


def _sent(statistics: LayerStatistics, dense: bool) -> LayerStatistics:
    if not dense:
        return statistics
    gram, cross = statistics.sums()
    return LayerStatistics(statistics.count, gram=gram, cross=cross)


def distance(first: Mapping[str, LayerUpdate], second: Mapping[str, LayerUpdate]) -> float:
    """Return the largest relative Frobenius distance over the modules."""
    assert set(first) == set(second)
    return max(
        float((first[name].dense() - second[name].dense()).norm() / second[name].dense().norm())
        for name in first
    )

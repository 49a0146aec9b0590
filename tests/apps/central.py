"""The same edits without Flower: slow, literal twins in float64 that federated runs must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import Context, RecordDict
from torch import Tensor

from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.apps.session import open_session
from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS, Targets
from fleke_flwr.models.loading import load_model
from fleke_flwr.progress import Silent
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest, LayerUpdate

Updates = dict[str, Tensor]


@dataclass
class Central:
    """Everything of a run in one process."""

    config: RunConfig

    def __post_init__(self) -> None:
        self.model = load_model(self.config.model)
        self.spec = resolve_recipe(self.config, self.model)
        self.editor = EDITORS.get(self.config.editor)(self.spec)
        self.layers = list(self.spec.layers)
        self.modules = [self.model.module_name(layer) for layer in self.layers]
        priors = known_priors(self.config, self.model, self.spec, Silent())
        self.priors = {module: priors[module].matrix() for module in self.modules}

    def requests(self, client: int) -> list[list[EditRequest]]:
        """Return one client's requests by round."""
        context = Context(
            1,
            1,
            {"partition-id": client, "num-partitions": self.config.clients},
            RecordDict(),
            self.config.to_flat(),
        )
        dealt = open_session(context).dealt(self.config.rounds)
        return [[case.request for case in cases] for cases in dealt]

    def everybody(self, round_: int) -> list[EditRequest]:
        """Return all clients' requests of one round, from 1."""
        return [
            request
            for client in range(self.config.clients)
            for request in self.requests(client)[round_ - 1]
        ]

    @contextmanager
    def edited(self, updates: Updates) -> Any:
        with applied(self.model.model, {m: LayerUpdate(u) for m, u in updates.items()}):
            yield

    def targets(self, requests: Sequence[EditRequest], updates: Updates) -> Targets:
        with self.edited(updates):
            return self.editor.targets(self.model, list(requests))

    def read(
        self, requests: Sequence[EditRequest], targets: Targets, updates: Updates
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return keys by module and residuals on the model with updates."""
        with self.edited(updates):
            readings = self.editor.readings(self.model, list(requests), self.layers)
        keys = {m: readings.keys[layer] for m, layer in zip(self.modules, self.layers, strict=True)}
        return keys, self.editor.residuals(targets, readings)


def ridge(residuals: Tensor, keys: Tensor, prior: Tensor) -> Tensor:
    """``R K^T (C + K K^T)^-1``, dense and by elimination."""
    return torch.linalg.solve(prior + keys @ keys.T, keys @ residuals.T).T


def plus(first: Updates, second: Updates) -> Updates:
    """Add updates."""
    return {m: first.get(m, 0) + second.get(m, 0) for m in {**first, **second}}  # type: ignore[misc]


def layer_sync(
    central: Central,
    requests: Callable[[int], Sequence[EditRequest]],
    start: Updates,
    sweeps: int = 1,
    past: dict[str, Tensor] | None = None,
) -> Updates:
    """MEMIT on the union, layer after layer; every further sweep solves for the total.

    ``requests(index)`` are those that take part at the layer with that index; ``past`` are matrices
    added to the priors.
    """
    total: Updates = {}
    for _ in range(sweeps):
        all_targets = {
            request: central.targets([request], plus(start, total)) for request in requests(0)
        }
        for index, module in enumerate(central.modules):
            taking_part = list(requests(index))
            targets = Targets(
                *(
                    torch.cat([getattr(all_targets[r], part) for r in taking_part])
                    for part in ("vectors", "initial", "losses", "steps")
                )
            )
            keys, left = central.read(taking_part, targets, plus(start, total))
            asked = left / (len(central.modules) - index)
            if module in total:
                asked = asked + total[module] @ keys[module]
            prior = central.priors[module]
            if past is not None:
                prior = prior + past[module]
            total = {**total, module: ridge(asked, keys[module], prior)}
    return total


def joint(
    central: Central,
    requests: Sequence[EditRequest],
    start: Updates,
    sweeps: int = 1,
    past: Tensor | None = None,
) -> Updates:
    """One ridge over all layers at once; every further sweep solves for the total."""
    sizes = [len(central.priors[module]) for module in central.modules]
    prior = torch.block_diag(*(central.priors[module] for module in central.modules))
    if past is not None:
        prior = prior + past
    total: Updates = {}
    for _ in range(sweeps):
        current = plus(start, total)
        targets = central.targets(requests, current)
        keys, left = central.read(requests, targets, current)
        stacked = torch.cat([keys[module] for module in central.modules])
        for module, update in total.items():
            left = left + update @ keys[module]
        solved = ridge(left, stacked, prior)
        total = dict(zip(central.modules, solved.split(sizes, dim=1), strict=True))
    return total


def stacked_keys(central: Central, requests: Sequence[EditRequest], updates: Updates) -> Tensor:
    """Return the keys of all layers, stacked, on the model with updates."""
    with central.edited(updates):
        readings = central.editor.readings(central.model, list(requests), central.layers)
    return torch.cat([readings.keys[layer] for layer in central.layers])


def assert_equal(found: Any, expected: Updates, tolerance: float = 1e-8) -> None:
    """Compare a state with updates, layer by layer, relative to the layer's norm."""
    assert set(found.updates) == set(expected)
    for module, update in expected.items():
        difference = (found.updates[module].dense() - update).norm() / update.norm()
        assert difference < tolerance, (module, float(difference))

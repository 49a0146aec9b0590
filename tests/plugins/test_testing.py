"""The public checks pass on what is built in and catch what they are there to catch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr import EDITORS, STATISTICS, STRATEGIES, UPDATES, EditRequest, EditStrategy
from fleke_flwr.editors import Memit
from fleke_flwr.strategies import SimpleAverage
from fleke_flwr.testing import check_editor, check_strategy, example_payload, example_plan
from fleke_flwr.types import LayerUpdate
from tests.conftest import LoadTiny

MERGING = [name for name in STRATEGIES.names() if issubclass(STRATEGIES.get(name), EditStrategy)]
# These need a trained network; tests/editors/hyper makes one.
NETWORKS = {"malmen", "mend"}
REQUESTS = [
    EditRequest("0", "{} lives in", "Mira Tolen", "Borvik"),
    EditRequest("1", "The home town of {} is", "Jonas Feld", "Dorum"),
    EditRequest("2", "{} works as a baker in", "Ada Karst", "Arlen"),
]


@pytest.mark.parametrize("name", MERGING)
def test_what_is_built_in_merges_as_it_must(name: str) -> None:
    kind: Any = STRATEGIES.get(name)
    check_strategy(kind)


@pytest.mark.parametrize("name", sorted({*EDITORS.names()} - NETWORKS))
def test_what_is_built_in_edits_as_it_must(name: str, load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    own: dict[str, Any] = {
        "rome": {"layers": (1,)},
        "ft": {"learning_rate": 1e-3},
        "ft_w": {"learning_rate": 1e-3},
    }
    settings = {"steps": 3, **own.get(name, {})}
    check_editor(EDITORS.get(name), load_tiny(tiny_gpt2), REQUESTS, **settings)


def test_contributions_have_the_number_of_edits_that_is_asked_for() -> None:
    plan = example_plan("joint")
    statistics = example_payload(STATISTICS, plan, 3).statistics
    assert [s.signed_factors()[0].shape for s in statistics.values()] == [(11, 3)]
    updates = example_payload(UPDATES, plan, 0).updates
    assert {module: update.numel for module, update in updates.items()} == dict.fromkeys(updates, 0)


class Spoils(SimpleAverage):
    """Works on the contributions themselves."""

    def merge(self, payloads: Any, state: Any) -> Any:
        for payload in payloads:
            for update in payload.updates.values():
                update.left.mul_(1.0)
                update.left.add_(1.0)
        return super().merge(payloads, state)


class Forgets(SimpleAverage):
    """Leaves a module out."""

    def merge(self, payloads: Any, state: Any) -> Any:
        return dict(list(super().merge(payloads, state).items())[:1])


class Blows(SimpleAverage):
    """Weighs with what nobody has computed."""

    def weights(self, payloads: Any) -> list[float]:
        return [float("nan")] * len(payloads)


class Throws(SimpleAverage):
    """Draws lots."""

    def merge(self, payloads: Any, state: Any) -> Any:
        merged = super().merge(payloads, state)
        return {m: LayerUpdate(torch.rand_like(update.dense())) for m, update in merged.items()}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Spoils, "bits the second time|in place"),
        (Forgets, r"updates of \['model.0'\]"),
        (Blows, "not finite"),
        (Throws, "bits the second time"),
    ],
)
def test_a_strategy_that_does_not_keep_it_is_told_so(kind: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_strategy(kind)


class Leaves(Memit):
    """Leaves the model changed."""

    def targets(self, model: Any, requests: Any, progress: Any = None) -> Any:
        with torch.no_grad():
            model.projection(0).weight.add_(1e-9)
        return super().targets(model, requests, progress)


class Mixes(Memit):
    """Lets requests move each other's targets."""

    def targets(self, model: Any, requests: Any, progress: Any = None) -> Any:
        found = super().targets(model, requests, progress)
        if len(requests):
            found.vectors.add_(found.vectors.mean(0) - found.vectors[:1].mean(0))
        return found


@pytest.mark.parametrize(
    ("kind", "words"), [(Leaves, "repeatable|weights are changed"), (Mixes, "own request only")]
)
def test_an_editor_that_does_not_keep_it_is_told_so(
    kind: Any, words: str, load_tiny: LoadTiny, tiny_llama: Path
) -> None:
    model = load_tiny(tiny_llama)
    weight = model.projection(0).weight
    before = weight.detach().clone()
    try:
        with pytest.raises(AssertionError, match=words):
            check_editor(kind, model, REQUESTS, steps=3)
    finally:
        with torch.no_grad():
            weight.copy_(before)

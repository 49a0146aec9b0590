"""What every editor must keep on every family, at one place and without Flower.

Editors and families come from the registry and the family table, so a new one is picked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr.editors.base import EDITORS, Editor, StatisticsEditor
from fleke_flwr.editors.modes import exchange_statistics
from fleke_flwr.models import EditableModel
from fleke_flwr.models.families import FAMILIES
from fleke_flwr.progress import Silent
from fleke_flwr.types import EditRequest, LayerStatistics, LayerUpdate
from tests.conftest import LoadTiny, TinyFamily
from tests.contracts.recipes import Cell, cell
from tests.editors.cases import awkward_requests
from tests.families import TINY

NAMES = EDITORS.names()
ADDITIVE = [n for n in NAMES if issubclass(EDITORS.get(n), Editor | StatisticsEditor)]
# Every family, and the tiny models that are a family in another configuration.
MODELS = sorted({*FAMILIES, *TINY})

# Subjects in front, at the end and alone, the longest prompt and target, and a duplicate.
REQUESTS = [awkward_requests()[place] for place in (0, 2, 3, 5)]

Prepare = Callable[[str, str], Cell]


@pytest.fixture
def prepare(tiny_family: TinyFamily, load_tiny: LoadTiny, tmp_path: Path) -> Prepare:
    def prepared(name: str, family: str) -> Cell:
        return cell(name, load_tiny(tiny_family(family)), tmp_path)

    return prepared


def pairs(names: list[str]) -> list[Any]:
    return [
        pytest.param(name, family, id=f"{name}-{family}") for family in MODELS for name in names
    ]


class Snapshot:
    """Everything of a model that an edit could leave changed."""

    def __init__(self, model: EditableModel) -> None:
        self.model = model.model
        self.values = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.objects = self._objects()
        self.flags = self._flags()

    def assert_unchanged(self) -> None:
        now = self.model.state_dict()
        assert {name for name in now if not torch.equal(now[name], self.values[name])} == set()
        assert self._objects() == self.objects
        assert self._flags() == self.flags
        assert all(parameter.grad is None for parameter in self.model.parameters())

    def _objects(self) -> dict[str, tuple[int, bool]]:
        return {
            name: (id(value), value.requires_grad) for name, value in self.model.named_parameters()
        }

    def _flags(self) -> dict[str, tuple[bool, int]]:
        return {
            name: (module.training, len(module._forward_hooks) + len(module._forward_pre_hooks))
            for name, module in self.model.named_modules()
        }


class Stopping(Silent):
    """Progress under which somebody presses Ctrl-C as soon as some of the work is done."""

    def advance(self, phase: str, amount: int = 1) -> None:
        raise KeyboardInterrupt


@contextmanager
def stopping(model: EditableModel, after: int = -1) -> Iterator[list[int]]:
    """Count passes through MLPs, and press Ctrl-C in the pass of this number."""
    passes: list[int] = []

    def count(*_: Any) -> None:
        passes.append(len(passes))
        if passes[-1] == after:
            raise KeyboardInterrupt

    handles = [
        model.projection(layer).register_forward_pre_hook(count)
        for layer in range(model.num_layers)
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("name", "family"), pairs(NAMES))
def test_whatever_happens_the_model_stays_and_the_edit_is_the_same(
    name: str, family: str, prepare: Prepare
) -> None:
    found = prepare(name, family)
    before = Snapshot(found.model)
    with stopping(found.model) as passes:
        first = found.edit(REQUESTS)
    before.assert_unchanged()
    assert_fitting(found, first)
    with pytest.raises(KeyboardInterrupt), stopping(found.model, len(passes) * 2 // 3):
        found.edit(REQUESTS)
    before.assert_unchanged()
    with pytest.raises(KeyboardInterrupt):
        found.edit(REQUESTS, Stopping())
    before.assert_unchanged()
    again = found.edit(REQUESTS)
    assert all(torch.equal(again[module].dense(), first[module].dense()) for module in first)


def assert_fitting(
    found: Cell, updates: Mapping[str, LayerUpdate], edits: int = len(REQUESTS)
) -> None:
    assert set(updates) == set(found.editor.modules(found.model))
    for module, update in updates.items():
        assert update.shape == found.model.shape_of(module)
        assert update.left.dtype == torch.float64
        assert torch.isfinite(update.dense()).all()
    assert any(bool(update.dense().any()) for update in updates.values()) == (edits > 0)


@pytest.mark.parametrize(("name", "family"), pairs(NAMES))
def test_no_request_and_a_single_one(name: str, family: str, prepare: Prepare) -> None:
    found = prepare(name, family)
    for edits in (0, 1):
        assert_fitting(found, found.edit(REQUESTS[:edits]), edits)


def statistics(found: Cell, requests: list[EditRequest]) -> dict[str, LayerStatistics]:
    if isinstance(found.editor, StatisticsEditor):
        return found.editor.statistics(found.model, requests)
    assert isinstance(found.editor, Editor)  # of the two kinds that add up
    targets = found.editor.targets(found.model, requests)
    return exchange_statistics(found.editor, found.model, requests, targets, 0)


def assert_adds_up(found: Cell) -> None:
    together = statistics(found, REQUESTS)
    alone = [statistics(found, [request]) for request in REQUESTS]
    for group, whole in together.items():
        parts = [one[group].sums() for one in alone]
        assert whole.count == len(parts)
        for number, expected in enumerate(whole.sums()):
            total = torch.stack([part[number] for part in parts]).sum(0)
            assert (total - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.parametrize(("name", "family"), pairs(ADDITIVE))
def test_one_by_one_is_together(name: str, family: str, prepare: Prepare) -> None:
    assert_adds_up(prepare(name, family))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_gives_nearly_the_same_edit(
    name: str, dtype: str, tiny_family: TinyFamily, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    path = tiny_family("llama")
    edits = []
    for precision in ("float32", dtype):
        found = cell(name, load_tiny(path, precision), tmp_path / precision)
        before = Snapshot(found.model)
        updates = found.edit(REQUESTS)
        before.assert_unchanged()
        assert_fitting(found, updates)
        edits.append(torch.cat([update.dense().flatten() for update in updates.values()]))
    assert torch.cosine_similarity(edits[0], edits[1], dim=0) > 0.9

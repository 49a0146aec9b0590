"""Targets are optimised once per state, and never taken for another state's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.editors import EDITORS, Editor, Targets
from fleke_flwr.editors.cache import Found, forget_targets, targets_cached
from fleke_flwr.editors.memit import Memit
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest
from tests.editors.cases import awkward_requests
from tests.editors.reference import spec_of

LoadTiny = Callable[..., EditableModel]


class Counting(Memit):
    """MEMIT that writes down how many requests it was given."""

    def __init__(self, spec: EditSpec) -> None:
        super().__init__(spec)
        self.given: list[int] = []

    def targets(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress
    ) -> Targets:
        self.given.append(len(requests))
        return super().targets(model, requests, progress)


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    forget_targets()
    yield
    forget_targets()


@pytest.fixture
def model(tiny_gpt2: Path, load_tiny: LoadTiny) -> EditableModel:
    return load_tiny(tiny_gpt2)


def counts(found: Found) -> tuple[int, int]:
    return found.optimized, found.reused


def test_only_what_is_missing_is_optimised(model: EditableModel) -> None:
    editor, requests = Counting(spec_of(model)), awkward_requests()
    first = targets_cached(editor, model, "s", requests[1:3], Silent())
    assert counts(first) == (2, 0)
    found = targets_cached(editor, model, "s", requests, Silent())
    every = found.targets
    # The sixth request repeats the first, so three are new.
    assert counts(found) == (3, 3)
    assert found.worth > first.worth > 0
    assert editor.given == [2, 3]
    assert torch.equal(every.vectors[1:3], first.targets.vectors)
    direct = Memit(editor.spec).targets(model, requests)
    torch.testing.assert_close(every.vectors, direct.vectors, rtol=1e-8, atol=1e-8)
    assert every.steps.tolist() == direct.steps.tolist()


def test_state_and_recipe_are_part_of_the_key(model: EditableModel) -> None:
    requests = awkward_requests()[:1]
    editor = Counting(spec_of(model))
    assert counts(targets_cached(editor, model, "s", requests, Silent())) == (1, 0)
    assert counts(targets_cached(editor, model, "t", requests, Silent())) == (1, 0)
    faster = Counting(spec_of(model, learning_rate=0.6))
    assert counts(targets_cached(faster, model, "s", requests, Silent())) == (1, 0)
    other = Counting(spec_of(model, mode="frozen", ridge_weight=3.0, batch_tokens=99))
    assert counts(targets_cached(other, model, "s", requests, Silent())) == (0, 1)


def test_no_requests(model: EditableModel) -> None:
    found = targets_cached(Memit(spec_of(model)), model, "s", [], Silent())
    assert found.targets.vectors.shape == (0, model.d_model)
    assert counts(found) == (0, 0)


def test_memit_is_registered() -> None:
    assert EDITORS.get("memit") is Memit


@pytest.mark.parametrize(
    ("first", "second"), [("memit", "emmet"), ("alphaedit", "memit"), ("adaple", "pmet")]
)
def test_editors_with_the_same_targets_share_them(
    first: str, second: str, model: EditableModel
) -> None:
    requests = awkward_requests()[:2]
    editors = [EDITORS.get(name)(replace(spec_of(model), editor=name)) for name in (first, second)]
    found = []
    for editor in editors:
        assert isinstance(editor, Editor)
        found.append(targets_cached(editor, model, "s", requests, Silent()))
    assert [counts(one) for one in found] == [(2, 0), (0, 2)]
    assert torch.equal(found[0].targets.vectors, found[1].targets.vectors)


def test_an_option_of_the_prior_is_none_of_the_targets(model: EditableModel) -> None:
    requests = awkward_requests()[:1]
    for equality, expected in ((0.1, (1, 0)), (0.2, (0, 1))):
        spec = replace(spec_of(model), editor="emmet", options={"equality": equality})
        editor = EDITORS.get("emmet")(spec)
        assert isinstance(editor, Editor)
        assert counts(targets_cached(editor, model, "s", requests, Silent())) == expected

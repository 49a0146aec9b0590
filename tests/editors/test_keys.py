"""Keys and hidden states are those of every context run alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleke_flwr.editors.memit import Memit
from fleke_flwr.models import EditableModel
from fleke_flwr.models.tokens import subject_position
from fleke_flwr.types import EditRequest
from tests.editors.cases import awkward_requests
from tests.editors.reference import one_key, spec_of

LoadTiny = Callable[..., EditableModel]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


@pytest.mark.parametrize("layers", [[0, 1, 2], [0], [2], [1]])
@pytest.mark.parametrize("batch_tokens", [16384, 30])
def test_equal_one_by_one(model: EditableModel, layers: list[int], batch_tokens: int) -> None:
    spec = spec_of(model, batch_tokens=batch_tokens)
    readings = Memit(spec).readings(model, awkward_requests(), layers)
    assert set(readings.keys) == set(layers)
    for column, request in enumerate(awkward_requests()):
        for layer in layers:
            expected = one_key(model, spec, request, layer)
            torch.testing.assert_close(
                readings.keys[layer][:, column], expected, rtol=1e-9, atol=1e-10
            )
        ids, position = subject_position(model, request.prompt, request.subject)
        states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(
            readings.hidden[:, column], states[3][0, position], rtol=1e-9, atol=1e-10
        )


def test_bare_prompt_alone_has_all_the_weight(model: EditableModel) -> None:
    spec = spec_of(model, contexts=("{}",))
    readings = Memit(spec).readings(model, awkward_requests()[:1], [1])
    expected = one_key(model, spec, awkward_requests()[0], 1)
    torch.testing.assert_close(readings.keys[1][:, 0], expected)


def test_hidden_states_are_those_the_targets_start_from(model: EditableModel) -> None:
    editor = Memit(spec_of(model))
    targets = editor.targets(model, awkward_requests())
    readings = editor.readings(model, awkward_requests(), [0])
    torch.testing.assert_close(readings.hidden.T, targets.initial, rtol=1e-10, atol=1e-10)
    residuals = editor.residuals(targets, readings)
    torch.testing.assert_close(residuals, (targets.vectors - targets.initial).T)


def test_no_requests(model: EditableModel) -> None:
    readings = Memit(spec_of(model)).readings(model, [], [0, 2])
    assert readings.keys[2].shape == (model.input_width(2), 0)
    assert readings.hidden.shape == (model.d_model, 0)


def test_reads_the_model_as_it_stands(model: EditableModel) -> None:
    editor = Memit(spec_of(model))
    before = editor.readings(model, awkward_requests(), [0, 1])
    weight = model.projection(0).weight
    saved = weight.clone()
    try:
        weight.mul_(1.5)
        after = editor.readings(model, awkward_requests(), [0, 1])
    finally:
        weight.copy_(saved)
    torch.testing.assert_close(before.keys[0], after.keys[0])
    assert not torch.allclose(before.keys[1], after.keys[1])


WORDS = st.text(alphabet="abc éž日 -", min_size=1, max_size=12).filter(lambda text: text.strip())


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(subjects=st.lists(WORDS, min_size=1, max_size=4), front=st.booleans())
def test_any_subject(model: EditableModel, subjects: list[str], front: bool) -> None:
    prompt = "{} lives in" if front else "The home town of {} is"
    requests = [
        EditRequest(str(index), prompt, subject.strip(), "Arlen")
        for index, subject in enumerate(subjects)
    ]
    spec = spec_of(model)
    readings = Memit(spec).readings(model, requests, [1])
    for column, request in enumerate(requests):
        expected = one_key(model, spec, request, 1)
        torch.testing.assert_close(readings.keys[1][:, column], expected, rtol=1e-9, atol=1e-10)

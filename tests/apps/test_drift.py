"""How far a model has moved: sizes, perplexity, and what clients report of models of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fleke_flwr.apps.drift import drift_sums, measure_drift, personal_drift, update_norms
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import DataError
from fleke_flwr.models import EditableModel
from fleke_flwr.state import EditState
from fleke_flwr.types import LayerUpdate
from tests.conftest import LoadTiny


def changed(model: EditableModel, scale: float = 0.2) -> EditState:
    """Return a state with a product in one layer and a matrix in another."""
    torch.manual_seed(3)
    d, f = model.d_model, model.input_width(0)
    left, right = (torch.randn(shape, dtype=torch.float64) for shape in ((d, 2), (2, f)))
    product = LayerUpdate(scale * left, right)
    whole = LayerUpdate(scale * torch.randn(d, f, dtype=torch.float64))
    return EditState(
        model.fingerprint, 1, {model.module_name(0): product, model.module_name(2): whole}
    )


def config_of(**flat: object) -> RunConfig:
    return RunConfig.from_flat({"evaluation.text-tokens": 200, **flat})


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_sizes_are_those_of_the_matrices(
    name: str, load_tiny: LoadTiny, request: pytest.FixtureRequest
) -> None:
    model = load_tiny(request.getfixturevalue(name))
    state = changed(model)
    for module, norms in update_norms(model, state.updates).items():
        update = float(torch.linalg.matrix_norm(state.updates[module].dense()))
        weight = float(torch.linalg.matrix_norm(model.model.get_submodule(module).weight))
        assert norms["update"] == pytest.approx(update, rel=1e-12)
        assert norms["relative"] == pytest.approx(update / weight, rel=1e-12)


def test_a_shared_model_is_compared_with_the_base(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    found = measure_drift(model, changed(model), config_of())
    read = found["perplexity"]
    assert (read["text"], read["tokens"]) == ("the end of corpus.txt", 200)
    assert read["change"] == pytest.approx(100 * (read["after"] / read["before"] - 1))
    assert read["change_ci95"] > 0
    assert set(found["weights"]) == {model.module_name(0), model.module_name(2)}
    # The base model is unharmed, and nothing added is no drift.
    again = measure_drift(model, EditState(model.fingerprint), config_of())
    assert again["perplexity"]["before"] == again["perplexity"]["after"] == read["before"]
    assert again["weights"] == {}


def test_a_model_beyond_repair_is_said_in_valid_json(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    state = changed(model, scale=float("nan"))
    found = measure_drift(model, EditState(state.base, 1, state.updates), config_of())
    assert found["perplexity"]["after"] is None
    assert found["perplexity"]["change"] is None
    json.dumps(found["perplexity"], allow_nan=False)


def test_without_a_text_sizes_are_left(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    found = measure_drift(model, changed(model), config_of(**{"evaluation.text-tokens": 0}))
    assert found["perplexity"] is None
    assert len(found["weights"]) == 2
    with pytest.raises(DataError, match=r"evaluation\.text"):
        measure_drift(model, changed(model), config_of(**{"evaluation.text": "nowhere.txt"}))


def test_clients_report_sums_that_give_the_same_numbers(
    load_tiny: LoadTiny, tiny_gpt2: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    shared = measure_drift(model, changed(model), config_of())
    sums = drift_sums(model, changed(model), config_of())
    found = personal_drift({0: sums, 2: sums})
    assert found is not None
    assert found["perplexity"]["clients"] == 2
    for when in ("before", "after"):
        assert found["perplexity"][when] == pytest.approx(shared["perplexity"][when])
    for module, norms in shared["weights"].items():
        assert found["weights"][module]["relative"] == pytest.approx(norms["relative"])


def test_a_client_without_the_text_reports_the_rest(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    missing = drift_sums(model, changed(model), config_of(**{"evaluation.text": "nowhere.txt"}))
    assert len(missing) == 2
    found = personal_drift({0: missing})
    assert found is not None
    assert found["perplexity"] is None
    assert personal_drift({}) is None


def test_one_model_without_finite_loss_leaves_no_mean(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    whole = drift_sums(model, changed(model), config_of())
    broken = {name: sums for name, sums in whole.items() if name != "text_after"}
    found = personal_drift({0: whole, 1: broken})
    assert found is not None
    assert found["perplexity"]["before"] > 1
    assert found["perplexity"]["after"] is None
    assert found["perplexity"]["change"] is None

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.editors.hyper.modules import mlp_matrices
from fleke_flwr.editors.mend import Mend
from fleke_flwr.errors import UnsupportedModelError
from tests.conftest import LoadTiny, TinyFamily
from tests.editors.cases import awkward_requests
from tests.editors.hyper.networks import spec_of, write_random_network


@pytest.mark.parametrize(("name", "matrices"), [("tiny_gpt2", 2), ("tiny_llama", 3)])
def test_updates_add_up_over_requests_and_fit_the_weights(
    name: str, matrices: int, load_tiny: LoadTiny, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    model = load_tiny(path)
    editor = Mend(spec_of("mend", write_random_network(model, "mend", tmp_path)))
    wanted = awkward_requests()
    together = editor.updates(model, wanted, {})
    alone = [editor.updates(model, [item], {}) for item in wanted]
    assert len(together) == 2 * matrices
    for module, update in together.items():
        assert update.shape == model.shape_of(module)
        total = sum(part[module].dense() for part in alone)
        torch.testing.assert_close(update.dense(), total, rtol=1e-9, atol=1e-12)


def test_no_request_changes_nothing(load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path) -> None:
    model = load_tiny(tiny_gpt2)
    editor = Mend(spec_of("mend", write_random_network(model, "mend", tmp_path)))
    updates = editor.updates(model, [], {})
    assert all(not update.dense().any() for update in updates.values())
    assert editor.priors(model, dict) == {}


def test_a_row_that_does_not_name_the_mlp_is_refused(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    nameless = replace(model, family=replace(model.family, mlp=""))
    with pytest.raises(UnsupportedModelError, match="take another editor"):
        mlp_matrices(nameless, 1)


def test_an_mlp_that_is_a_chain_has_its_matrices(
    load_tiny: LoadTiny, tiny_family: TinyFamily
) -> None:
    found = mlp_matrices(load_tiny(tiny_family("opt")), 1)
    assert found == ("model.decoder.layers.1.fc1", "model.decoder.layers.1.fc2")

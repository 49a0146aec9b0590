from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest
import torch

from fleke_flwr import linalg
from fleke_flwr.editors.hyper.readings import answered, joined, read_tokens
from fleke_flwr.editors.hyper.storage import load_network
from fleke_flwr.editors.malmen import Malmen
from fleke_flwr.errors import ConfigError
from fleke_flwr.types import LayerStatistics
from tests.conftest import LoadTiny
from tests.editors.cases import awkward_requests
from tests.editors.hyper.networks import spec_of, write_random_network

MODELS = ("tiny_gpt2", "tiny_llama")


def no_moments() -> dict[str, torch.Tensor]:
    raise AssertionError("MALMEN needs no covariance")


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("tokens", ["answer", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_the_merge_of_clients_equals_the_pooled_edit(
    name: str, tokens: str, load_tiny: LoadTiny, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    model = load_tiny(path)
    editor = Malmen(
        spec_of("malmen", write_random_network(model, "malmen", tmp_path, tokens=tokens))
    )
    wanted = awkward_requests()
    # Ragged sizes, a client without records, and a request that two clients hold.
    clients = [wanted[:1], [], wanted[1:4], wanted[4:], wanted[:1]]
    pooled = editor.statistics(model, [item for part in clients for item in part])
    parts = [editor.statistics(model, part) for part in clients]
    priors = editor.priors(model, no_moments)
    assert set(pooled) == set(editor.modules(model))
    for module in pooled:
        total: LayerStatistics = reduce(lambda a, b: a + b, (part[module] for part in parts))
        assert total.count == pooled[module].count == 7
        merged = linalg.solve(total, priors[module]).dense()
        bound = linalg.solve(pooled[module], priors[module]).dense()
        assert relative(merged, bound) < 1e-8


@pytest.mark.parametrize("name", MODELS)
def test_the_update_is_the_papers_formula(
    name: str, load_tiny: LoadTiny, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    model = load_tiny(path)
    editor = Malmen(spec_of("malmen", write_random_network(model, "malmen", tmp_path)))
    wanted = awkward_requests()
    found, priors = editor.statistics(model, wanted), editor.priors(model, no_moments)
    network = load_network(tmp_path, "malmen", model).network
    texts = [answered(model, item.text, item.target) for item in wanted]
    rows = read_tokens(model, list(found), texts, "answer", 4096)
    for number, module in enumerate(found):
        keys, gradients = joined(rows, module)
        state = {name: value.double() for name, value in network.state_dict().items()}
        desired = []
        for k, g in zip(keys, gradients, strict=True):
            y = (torch.cat([k, g]) - state[f"mean_{number}"]) / state[f"deviation_{number}"]
            for block in ("stacks.0.0", "stacks.0.1"):
                part = {name: state[f"{block}.{name}"] for name in ("first", "second", "bias")}
                inner = torch.relu(part["first"].T @ y @ part["second"] + part["bias"])
                y = y + state[f"{block}.scale"][number] * inner + state[f"{block}.shift"][number]
            eta = state["rates"][number] * state["units"][number]
            desired.append(-eta * (k @ y[: len(k)]) * y[len(k) :])
        D = torch.stack(desired)
        kappa = state["theta"][number].exp()
        matrix = keys.T @ keys + kappa * torch.eye(keys.shape[1], dtype=torch.float64)
        slow = torch.linalg.solve(matrix, keys.T @ D).T
        assert relative(linalg.solve(found[module], priors[module]).dense(), slow) < 1e-8


def test_one_by_one_equals_at_once(load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path) -> None:
    model = load_tiny(tiny_gpt2)
    editor = Malmen(
        spec_of("malmen", write_random_network(model, "malmen", tmp_path), batch_tokens=30)
    )
    wanted = awkward_requests()
    together = editor.statistics(model, wanted)
    alone = [editor.statistics(model, [item]) for item in wanted]
    for module, statistics in together.items():
        gram, cross = statistics.sums()
        assert relative(sum(part[module].sums()[0] for part in alone), gram) < 1e-10
        assert relative(sum(part[module].sums()[1] for part in alone), cross) < 1e-10


def test_no_request_asks_for_nothing(load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path) -> None:
    model = load_tiny(tiny_gpt2)
    editor = Malmen(spec_of("malmen", write_random_network(model, "malmen", tmp_path)))
    for module, statistics in editor.statistics(model, []).items():
        assert statistics.count == 0
        assert statistics.factors()[0].shape == (model.shape_of(module)[1], 0)


def test_other_networks_and_layers_are_refused(
    load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    write_random_network(model, "malmen", tmp_path)
    Malmen(spec_of("malmen", tmp_path)).check(model)
    with pytest.raises(ConfigError, match=r"edit\.layers=1,2"):
        Malmen(spec_of("malmen", tmp_path, layers=(0, 2))).check(model)
    options = {"network": str(tmp_path), "network-hash": "0" * 16}
    with pytest.raises(ConfigError, match="network-path"):
        Malmen(spec_of("malmen", tmp_path, options=options)).check(model)
    with pytest.raises(ConfigError, match="fleke train-editor"):
        Malmen(spec_of("malmen", "")).check(model)

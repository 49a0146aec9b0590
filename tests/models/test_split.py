"""A model whose embedding, edited blocks, last norm and head lie in different places.

The devices are pretended, so that this is tested on machines that have none; accelerate's own hooks
move what enters the parts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fleke_flwr.artifacts import read_json
from fleke_flwr.config import EvaluationConfig
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.editors.covariance import second_moments
from fleke_flwr.editors.hyper.storage import CARD
from fleke_flwr.evaluation.perplexity import text_loss
from fleke_flwr.evaluation.quality import evaluate
from fleke_flwr.locate.facts import Fact, prompt_of
from fleke_flwr.locate.noise import fitted_noise
from fleke_flwr.locate.tracing import TraceSettings, trace
from fleke_flwr.models import EditableModel
from fleke_flwr.models.spreading import place
from fleke_flwr.progress import Silent
from tests.conftest import LoadTiny, TinyFamily, corpus
from tests.contracts.recipes import cell
from tests.contracts.test_editors import MODELS, REQUESTS
from tests.editors.hyper.networks import cases
from tests.editors.hyper.test_training import order_of, train
from tests.models.pretended import FIRST, SECOND, THIRD, Elsewhere, pretended

Load = Callable[[str], tuple[EditableModel, EditableModel]]


@pytest.fixture
def both(tiny_family: TinyFamily, load_tiny: LoadTiny, tmp_path: Path) -> Load:
    """Return a function that loads a model twice: as it is, and split."""

    def load(family: str) -> tuple[EditableModel, EditableModel]:
        path = shutil.copytree(tiny_family(family), tmp_path / "split")
        split = load_tiny(path)
        with pretended():
            place(split.model, places_of(split))
        return load_tiny(tiny_family(family)), split

    return load


def places_of(model: EditableModel) -> dict[str, torch.device]:
    """Return a device for every module with parameters: the head's is its own."""
    family = model.family
    blocks = [f"{family.blocks}.{layer}" for layer in range(model.num_layers)]
    places = {name: FIRST if layer < 2 else SECOND for layer, name in enumerate(blocks)}
    for name, module in model.model.named_modules():
        is_leaf = name and not list(module.children())
        if is_leaf and not name.startswith(f"{family.blocks}."):
            places[name] = FIRST
    for name, _ in model.model.named_parameters():
        if not any(name.startswith(f"{known}.") for known in places):
            places[name.rpartition(".")[0]] = FIRST
    embedding = model.model.get_input_embeddings()
    is_tied = model.model.get_submodule(family.head).weight is embedding.weight
    return {**places, family.final_norm: SECOND, family.head: FIRST if is_tied else THIRD}


def test_places_do_not_meet(both: Load) -> None:
    whole, split = both("llama")
    first, last = split.weight(0), split.weight(3)
    assert (first.device, last.device) == (FIRST, SECOND)
    assert isinstance(last, Elsewhere)
    head = split.model.get_submodule(split.family.head)
    assert isinstance(head, nn.Linear)
    assert head.weight.device == THIRD
    with pretended(), pytest.raises(RuntimeError, match="tensors on lazy"):
        first + last
    assert torch.equal(first.held, whole.weight(0))


CELLS = [
    *((name, "llama") for name in EDITORS.names()),
    *(("memit", family) for family in MODELS if family != "llama"),
    *(("pmet", family) for family in ("gptj", "opt", "gemma2")),
]


@pytest.mark.parametrize(("name", "family"), CELLS)
def test_edits_are_those_of_the_whole_model(
    name: str, family: str, both: Load, tmp_path: Path
) -> None:
    whole, split = both(family)
    expected = cell(name, whole, tmp_path).edit(REQUESTS[:1])
    with pretended():
        found = cell(name, split, tmp_path).edit(REQUESTS[:1])
    for module, update in expected.items():
        assert type(found[module].left) is torch.Tensor
        torch.testing.assert_close(found[module].dense(), update.dense(), rtol=1e-8, atol=1e-10)


def test_a_trace_is_that_of_the_whole_model(both: Load) -> None:
    scores = []
    for model in both("llama"):
        with pretended():
            prompt = prompt_of(model, Fact("1", "In {} lives", "New Elster"))
            noise = fitted_noise(model, "s3", [prompt])
            scores.append(trace(model, prompt, noise, TraceSettings(samples=2).for_model(model)))
    for kind, values in scores[0].scores.items():
        torch.testing.assert_close(scores[1].scores[kind], values, rtol=0, atol=1e-10)


def test_covariance_and_perplexity_are_those_of_the_whole_model(both: Load, tmp_path: Path) -> None:
    moments, losses = [], []
    for number, model in enumerate(both("llama")):
        folder = tmp_path / str(number)
        with pretended():
            moments.append(second_moments(model, corpus()[:30], [0, 2, 3], 99, folder, Silent()))
            losses.append(text_loss(model, [(1, 2, 3, 4), (5, 6)], 40).mean)
    for module, moment in moments[0].items():
        torch.testing.assert_close(moments[1][module], moment)
    assert losses[1] == pytest.approx(losses[0])


def test_records_are_judged_as_by_the_whole_model(both: Load) -> None:
    found = []
    for model in both("llama"):
        with pretended():
            sums = evaluate(model, cases(6), EvaluationConfig(generate_every=1), 0).sums()
        found.append({name: list(values) for name, values in sums.items()})
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        assert found[1][name] == pytest.approx(values), name


@pytest.mark.parametrize("editor", ["malmen", "mend"])
def test_networks_are_trained_as_on_the_whole_model(
    editor: str, both: Load, tmp_path: Path
) -> None:
    curves = []
    for number, model in enumerate(both("llama")):
        folder = tmp_path / str(number)
        with pretended():
            train(model, order_of(editor, 1), folder)
        curves.append(read_json(folder / CARD)["curve"][-1]["validation"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)

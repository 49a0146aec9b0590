"""Changes of a block's parts, carried to its output, on every family."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fleke_flwr.editors.entry import AttentionAndMlp, BlockOutput, Entry
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.pmet import Pmet
from fleke_flwr.editors.rows import Row, begin, target_rows
from fleke_flwr.errors import UnsupportedModelError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.hooks import captured_outputs
from fleke_flwr.models.tokens import pad_batch
from fleke_flwr.types import EditRequest
from tests.editors.cases import awkward_requests
from tests.editors.reference import one_pmet_target, one_target, spec_of
from tests.families import TINY

LoadTiny = Callable[..., EditableModel]
LAYER = 1


@pytest.fixture(params=["gpt2", "llama", *TINY])
def model(
    request: pytest.FixtureRequest, tiny_family: Callable[[str], Path], load_tiny: LoadTiny
) -> EditableModel:
    return load_tiny(tiny_family(request.param))


def adding(module: nn.Module, where: tuple[Tensor, Tensor], change: Tensor) -> Any:
    """Add to a module's output, wherever in it the states are."""

    def add(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[where] += change
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return module.register_forward_hook(add)


@pytest.mark.parametrize("entry", [BlockOutput(), AttentionAndMlp()])
@torch.no_grad()
def test_changes_are_carried_as_in_the_whole_network(model: EditableModel, entry: Entry) -> None:
    rows = target_rows(model, 0, awkward_requests()[1], ["{}", "The quiet river was cold. {}"])
    begun = begin(model, rows, model.num_layers)
    passage = entry.read(model, LAYER, begun)
    torch.manual_seed(0)
    change = torch.randn_like(passage.initial)
    found = entry.enter(model, LAYER, passage.entering, change)
    ids, _ = pad_batch(model, [row.ids for row in rows])
    where = (torch.arange(len(rows)), torch.tensor([row.position for row in rows]))
    parts = [model.projection(LAYER)]
    if isinstance(entry, AttentionAndMlp):
        parts.insert(0, model.part(LAYER, "attention"))
    block = {"block": model.part(LAYER, "block")}
    with ExitStack() as hooks, captured_outputs(block) as captured:
        for index, part in enumerate(parts):
            handle = adding(part, where, change[:, index])
            hooks.callback(handle.remove)
        model.model(ids)
    torch.testing.assert_close(found, captured["block"][where], rtol=1e-10, atol=1e-10)
    unchanged = entry.enter(model, LAYER, passage.entering, torch.zeros_like(change))
    assert float((found - unchanged).norm()) > 0.1


@pytest.mark.parametrize("name", ["gptj", "opt", "gemma3_text"])
def test_pmet_is_its_slow_twin(
    name: str, tiny_family: Callable[[str], Path], load_tiny: LoadTiny
) -> None:
    model = load_tiny(tiny_family(name))
    spec = spec_of(model, editor="pmet", layers=(LAYER,), steps=3)
    requests = awkward_requests()[1:3]
    found = Pmet(spec).targets(model, requests)
    for row, request in enumerate(requests):
        twin = one_pmet_target(model, spec, request)
        torch.testing.assert_close(found.vectors[row], twin.mlp, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt_neox", "mistral"])
def test_memit_is_its_slow_twin(
    name: str, tiny_family: Callable[[str], Path], load_tiny: LoadTiny
) -> None:
    model = load_tiny(tiny_family(name))
    spec = spec_of(model, layers=(LAYER,), steps=3)
    requests = awkward_requests()[1:3]
    found = Memit(spec).targets(model, requests)
    for row, request in enumerate(requests):
        vector, _, _ = one_target(model, spec, request)
        torch.testing.assert_close(found.vectors[row], vector, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["gemma2", "gptj"])
def test_a_written_residual_reaches_the_target(
    name: str, tiny_family: Callable[[str], Path], load_tiny: LoadTiny
) -> None:
    model = load_tiny(tiny_family(name))
    spec = spec_of(model, layers=(LAYER,), contexts=("{}",), kl_weight=0.0, steps=20)
    request = EditRequest("0", "{} lives in", "Mira Tolen", "Borvik")
    editor = Memit(spec)
    targets = editor.targets(model, [request])
    readings = editor.readings(model, [request], [LAYER])
    residual, key = (targets.vectors.T - readings.hidden)[:, 0], readings.keys[LAYER][:, 0]
    row = target_rows(model, 0, request, ["{}"])[0]
    begun = begin(model, [row], model.num_layers)
    passage = BlockOutput().read(model, LAYER, begun)
    wanted = BlockOutput().enter(model, LAYER, passage.entering, residual[None, None])
    before, _ = run(model, row)
    weight = model.weight_of(model.module_name(LAYER))
    kept = weight.clone()
    try:
        weight += torch.outer(residual, key) / key.square().sum()
        after, output = run(model, row)
    finally:
        weight.copy_(kept)
    torch.testing.assert_close(output, wanted[0])
    assert after > before + 0.3


@torch.no_grad()
def run(model: EditableModel, row: Row) -> tuple[float, Tensor]:
    """Return the target's likelihood and what the edited block puts out at the subject."""
    with captured_outputs({"block": model.part(LAYER, "block")}) as captured:
        logs = model.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    likelihood = logs[-len(row.labels) :].gather(1, torch.tensor(row.labels)[:, None]).mean()
    return float(likelihood), captured["block"][0, row.position]


def test_blocks_known_as_a_whole_are_refused_for_two_changes(
    tiny_family: Callable[[str], Path], load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny(tiny_family("gptj"))
    AttentionAndMlp().check(model)
    monkeypatch.setattr(model, "family", replace(model.family, norm_2=""))
    BlockOutput().check(model)
    with pytest.raises(UnsupportedModelError, match="no norm_2"):
        AttentionAndMlp().check(model)

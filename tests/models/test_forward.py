"""Partial forward passes give what the whole model gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import Memory, run_block_at, run_blocks, segment, subsegment
from fleke_flwr.models.hooks import captured_keys
from tests.families import TINY

LoadTiny = Callable[..., EditableModel]


@pytest.fixture(params=["gpt2", "llama", *TINY])
def model(
    request: pytest.FixtureRequest, tiny_family: Callable[[str], Path], load_tiny: LoadTiny
) -> EditableModel:
    return load_tiny(tiny_family(request.param))


@pytest.fixture(params=[True, False])
def whole(
    request: pytest.FixtureRequest, model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Let blocks be called whole, as those of an unknown family would be."""
    if request.param:
        monkeypatch.setattr(model, "family", replace(model.family, norm_2=""))
    return bool(request.param)


@pytest.mark.usefixtures("whole")
def test_resuming_behind_a_shared_prefix_is_exact(model: EditableModel) -> None:
    torch.manual_seed(0)
    prefix = torch.randint(1, 300, (1, 5))
    rows = torch.randint(1, 300, (3, 6))
    whole = torch.cat([prefix.expand(3, 5), rows], 1)
    expected = model.model(whole, output_hidden_states=True)
    hidden, part = segment(model, prefix, torch.arange(5)[None], None)
    _, recorded = run_blocks(model, hidden, part, 0, 4)
    valid = torch.ones(1, 5, dtype=torch.bool)
    memory = Memory(recorded, valid).rows(torch.zeros(3, dtype=torch.long))
    places = torch.arange(5, 11).expand(3, 6)
    hidden, part = segment(model, rows, places, memory)
    middle, first = run_blocks(model, hidden, part, 0, 2)
    torch.testing.assert_close(middle, expected.hidden_states[2][:, 5:])
    # Only the last four positions again, from the middle of the network upwards.
    above = run_blocks(model, middle, part, 2, 4)[1]
    own = {layer: (k[:, :, :2], v[:, :, :2]) for layer, (k, v) in (first | above).items()}
    later = memory.followed_by(Memory(own, torch.ones(3, 2, dtype=torch.bool)))
    tail = subsegment(model, places[:, 2:], later)
    hidden, _ = run_blocks(model, middle[:, 2:], tail, 2, 3)
    where = (torch.tensor([0, 2, 2]), torch.tensor([3, 0, 3]))
    read = run_block_at(model, 3, [(hidden, tail, where), (hidden, tail, where)])[:3]
    logits = model.logits(model.final_norm(read))
    torch.testing.assert_close(logits, expected.logits[:, 7:][where], rtol=1e-10, atol=1e-10)


def test_masked_memory_is_ignored(model: EditableModel) -> None:
    torch.manual_seed(1)
    prefix, rows = torch.randint(1, 300, (1, 4)), torch.randint(1, 300, (2, 3))
    hidden, part = segment(model, prefix, torch.arange(4)[None], None)
    _, recorded = run_blocks(model, hidden, part, 0, 4)
    memory = Memory(recorded, torch.tensor([[True, True, False, False]]))
    index = torch.zeros(2, dtype=torch.long)
    hidden, part = segment(model, rows, torch.arange(2, 5).expand(2, 3), memory.rows(index))
    found, _ = run_blocks(model, hidden, part, 0, 4)
    whole = torch.cat([prefix[:, :2].expand(2, 2), rows], 1)
    expected = model.model(whole).logits[:, 2:]
    torch.testing.assert_close(model.logits(model.final_norm(found)), expected)


def test_captured_keys_are_the_projection_inputs(model: EditableModel) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    with captured_keys(model, [1]) as keys:
        model.model(ids)
    assert keys[1].shape == (1, 4, model.input_width(1))
    assert not model.projection(1)._forward_pre_hooks
    names = dict(model.model.named_modules())
    assert names[model.module_name(1)] is model.projection(1)


def test_hooks_come_off_after_an_exception(model: EditableModel) -> None:
    with pytest.raises(IndexError), captured_keys(model, [0, 2]):
        model.model(torch.tensor([[10_000]]))
    assert not model.projection(0)._forward_pre_hooks
    assert not model.blocks[0]._forward_pre_hooks

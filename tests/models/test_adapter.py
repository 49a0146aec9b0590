"""An adapter gives peft the same model, and says what a smaller rank leaves out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fleke_flwr.artifacts import read_json
from fleke_flwr.errors import ConfigError, ModelError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.adapter import low_rank, save_adapter
from fleke_flwr.state import EditState
from fleke_flwr.types import LayerUpdate
from tests.models.elsewhere import logits_elsewhere, logits_here
from tests.models.made_edits import made_state

LoadTiny = Callable[..., EditableModel]
Saved = dict[str, tuple[EditableModel, EditState, Tensor]]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    inner=st.integers(1, 15),
    rank=st.integers(1, 12),
    dense=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_what_is_cut_off_is_the_tail_of_the_singular_values(
    rows: int, columns: int, inner: int, rank: int, dense: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, inner, generator=generator, dtype=torch.float64)
    right = torch.randn(inner, columns, generator=generator, dtype=torch.float64)
    update = LayerUpdate(left @ right) if dense else LayerUpdate(left, right)
    part = low_rank(update, rank)
    singular = torch.linalg.svdvals(left @ right)
    tail, whole = singular[part.rank :].norm(), singular.norm()
    assert part.full_rank <= min(rows, columns, inner)
    assert part.rank == min(rank, part.full_rank)
    assert part.error == pytest.approx(float(tail / whole), abs=1e-9)
    assert part.energy == pytest.approx(1 - part.error**2, abs=1e-9)
    left_over = part.factors.dense() - left @ right
    assert float(left_over.norm()) == pytest.approx(float(tail), abs=1e-9 * float(whole))


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 6), seed=st.integers(0, 2**16), dense=st.booleans())
def test_the_rank_of_an_update_is_found(rank: int, seed: int, dense: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(20, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, 30, generator=generator, dtype=torch.float64)
    # Twice the same columns: what clients that made the same edits would send.
    update = LayerUpdate(torch.cat([left, left], 1), torch.cat([right, right], 0))
    update = LayerUpdate(update.dense()) if dense else update
    part = low_rank(update)
    assert part.rank == part.full_rank
    assert part.error < 1e-14
    if not dense:
        assert rank <= part.rank <= 2 * rank


def test_a_zero_update_has_no_rank() -> None:
    part = low_rank(LayerUpdate(torch.zeros(4, 6)))
    assert (part.rank, part.full_rank, part.energy, part.error) == (0, 0, 1.0, 0.0)


@pytest.fixture(scope="module")
def saved(
    tiny_gpt2: Path,
    tiny_llama: Path,
    load_tiny: LoadTiny,
    tmp_path_factory: pytest.TempPathFactory,
) -> Saved:
    """Return model, state that the adapter stands for, and logits from another process."""
    folder = tmp_path_factory.mktemp("adapters")
    made, orders = {}, {}
    for base in (tiny_gpt2, tiny_llama):
        for name, dtype in (("float32", "float32"), ("dense", "float32"), ("half", "bfloat16")):
            model = load_tiny(base, dtype=dtype)
            state = made_state(model, dense=name == "dense")
            key = f"{model.family.model_type} {name}"
            save_adapter(model, state.updates, folder / key)
            made[key] = (model, state)
            orders[key] = {"model": base, "dtype": dtype, "adapter": folder / key}
        model = load_tiny(base, dtype="float32")
        key = f"{model.family.model_type} truncated"
        parts = save_adapter(model, made_state(model).updates, folder / key, rank=2)
        factors = {name: part.factors for name, part in parts.items()}
        made[key] = (model, EditState(model.fingerprint, 1, factors))
        orders[key] = {"model": base, "dtype": "float32", "adapter": folder / key}
    logits = logits_elsewhere(orders, folder)
    return {key: (*pair, logits[key]) for key, pair in made.items()}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["float32", "dense", "truncated"])
def test_peft_gives_the_same_logits(family: str, name: str, saved: Saved) -> None:
    model, state, found = saved[f"{family} {name}"]
    base = logits_here(model)
    with state.applied(model.model):
        wanted = logits_here(model)
    changed, difference = (wanted - base).abs().max(), (found - wanted).abs().max()
    assert changed > 0.1
    assert difference < 1e-4 * changed


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_half_precision_is_off_by_its_rounding(family: str, saved: Saved) -> None:
    model, state, found = saved[f"{family} half"]
    with state.applied(model.model):
        wanted = logits_here(model)
    assert (found - wanted).abs().mean() < 0.05 * wanted.abs().mean()


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_the_configuration_scales_by_exactly_one(
    name: str, request: pytest.FixtureRequest, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    model = load_tiny(request.getfixturevalue(name), dtype="float32")
    state = made_state(model)
    parts = save_adapter(model, state.updates, tmp_path / "adapter", base="somebody/base")
    config = read_json(tmp_path / "adapter" / "adapter_config.json")
    modules = sorted(state.updates)
    assert config["target_modules"] == modules
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    assert config["rank_pattern"] == config["alpha_pattern"] == {modules[0]: 3, modules[1]: 4}
    assert config["fan_in_fan_out"] == (name == "tiny_gpt2")
    assert config["base_model_name_or_path"] == "somebody/base"
    assert [parts[module].rank for module in modules] == [3, 4, 5]


def test_a_module_without_change_is_left_out(
    tiny_gpt2: Path, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2, dtype="float32")
    updates = dict(made_state(model).updates)
    first, *rest = sorted(updates)
    updates[first] = updates[first].scaled(0.0)
    assert sorted(save_adapter(model, updates, tmp_path / "adapter")) == rest
    config = read_json(tmp_path / "adapter" / "adapter_config.json")
    assert config["target_modules"] == rest
    nothing = {name: update.scaled(0.0) for name, update in updates.items()}
    with pytest.raises(ModelError, match="zero everywhere"):
        save_adapter(model, nothing, tmp_path / "nothing")


@pytest.mark.parametrize("rank", [0, -1, 6, 500])
def test_ranks_that_no_update_has_are_refused(
    rank: int, tiny_gpt2: Path, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2, dtype="float32")
    with pytest.raises(ConfigError, match=rf"rank {rank}: .* rank 5; choose 1 to 5"):
        save_adapter(model, made_state(model).updates, tmp_path / "adapter", rank=rank)
    assert not (tmp_path / "adapter").exists()


def test_without_peft_it_says_what_to_install(
    tiny_gpt2: Path, load_tiny: LoadTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    model = load_tiny(tiny_gpt2, dtype="float32")
    with pytest.raises(ConfigError, match=r"pip install 'fleke-flwr\[peft\]'"):
        save_adapter(model, made_state(model).updates, tmp_path / "adapter")

"""Loading: fingerprints, one copy per process, errors that say what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fleke_flwr.config import ModelConfig
from fleke_flwr.errors import ModelError, UnsupportedModelError
from fleke_flwr.models import FAMILIES, EditableModel, family_of, load_model

LoadTiny = Callable[..., EditableModel]


def test_properties_of_gpt2(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    model = load_tiny(tiny_gpt2)
    assert (model.d_model, model.num_layers, model.max_positions) == (32, 4, 96)
    assert model.input_width(1) == 64
    assert model.module_name(2) == "transformer.h.2.mlp.c_proj"
    assert model.dtype == torch.float64
    assert model.settings["layers"] == [0, 1, 2]
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_properties_of_llama(tiny_llama: Path, load_tiny: LoadTiny) -> None:
    model = load_tiny(tiny_llama, dtype="float32")
    assert model.input_width(3) == 56
    assert model.module_name(0) == "model.layers.0.mlp.down_proj"
    assert model.tokenizer.pad_token_id is not None


def test_is_loaded_once(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    assert load_tiny(tiny_gpt2) is load_tiny(tiny_gpt2)
    assert load_tiny(tiny_gpt2, dtype="float32") is not load_tiny(tiny_gpt2)


def test_fingerprint_is_of_the_content(
    tiny_gpt2: Path, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_gpt2, tmp_path / "other name")
    changed = shutil.copytree(tiny_gpt2, tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    first = sorted(weights)[0]
    weights[first].view(-1)[0] += 1e-3
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    original = load_tiny(tiny_gpt2, dtype="float32").fingerprint
    assert len(original) == 16
    assert load_tiny(copy, dtype="float32").fingerprint == original
    assert load_tiny(changed, dtype="float32").fingerprint != original


def test_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json.*safetensors"):
        load_model(ModelConfig(name=str(tmp_path)))
    with pytest.raises(ModelError, match="no such directory"):
        load_model(ModelConfig(name=str(tmp_path / "nowhere")))


def test_layer_out_of_range(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    with pytest.raises(ModelError, match="layers are 0 to 3"):
        load_tiny(tiny_gpt2).module_name(4)


def test_unknown_family_names_the_row(
    tiny_gpt2: Path, load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny(tiny_gpt2).model
    monkeypatch.delitem(FAMILIES, "gpt2")
    with pytest.raises(UnsupportedModelError, match='model_type="gpt2"'):
        family_of(model)


def test_float64_llama_is_float64_throughout(tiny_llama: Path, load_tiny: LoadTiny) -> None:
    model = load_tiny(tiny_llama)
    ids = torch.arange(1, 9).view(1, -1)
    twice = torch.cat([ids, torch.full((1, 20), 5)], dim=1)
    alone = model.model(ids).logits[0, -1]
    padded = model.model(twice).logits[0, 7]
    torch.testing.assert_close(alone, padded, rtol=1e-12, atol=1e-12)
    narrow = load_tiny(tiny_llama, dtype="float32").model(ids).logits[0, -1]
    torch.testing.assert_close(alone.float(), narrow, rtol=1e-4, atol=1e-4)

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
from fleke_flwr.models import FAMILIES, EditableModel, family_of, load_model, spreading

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


def test_a_tensor_that_is_missing_is_not_made_up(tiny_llama: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny_llama, tmp_path / "copied")
    tensors = load_file(copied / "model.safetensors")
    del tensors["model.layers.2.mlp.down_proj.weight"]
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, model\.layers\.2\.mlp\.down_proj"):
        load_model(ModelConfig(name=str(copied)))


@pytest.mark.parametrize("size", [0, 1000])
def test_half_written_weights_are_refused(size: int, tiny_gpt2: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny_gpt2, tmp_path / "copied")
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(ModelConfig(name=str(copied)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused(tiny_gpt2: Path) -> None:
    with pytest.raises(ModelError, match=r"device 'cuda:1'\) cannot be loaded"):
        load_model(ModelConfig(name=str(tiny_gpt2), device="cuda:1"))


def test_auto_is_the_cpu_where_there_is_no_gpu(
    tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    copied = shutil.copytree(tiny_gpt2, tmp_path / "copied")
    assert load_model(ModelConfig(name=str(copied), device="auto")).device.type == "cpu"


def test_a_model_larger_than_all_gpus_is_refused(
    tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    places = {"transformer.wte": 0, "transformer.h.0": 1, "transformer.h.1": "cpu"}
    monkeypatch.setattr(spreading, "_balanced", lambda _: places)
    copied = shutil.copytree(tiny_gpt2, tmp_path / "copied")
    with pytest.raises(ModelError, match=r"fit on 2 GPUs: transformer\.h\.1 would be left"):
        load_model(ModelConfig(name=str(copied), device="auto"))

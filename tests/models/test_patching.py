"""Edits go into a model directory and come out of it bit for bit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from fleke_flwr.artifacts import read_json
from fleke_flwr.config import ModelConfig
from fleke_flwr.errors import ConfigError, DataError, FlekeError, ModelError
from fleke_flwr.models import EditableModel, load_model
from fleke_flwr.models.checkpoint import Checkpoint
from fleke_flwr.models.patching import FOLDER, applied_edits, apply_edits, revert_edits
from fleke_flwr.state import EditState
from tests.models.elsewhere import logits_here
from tests.models.made_edits import made_state

FAMILIES = ["tiny_gpt2", "tiny_llama"]


def loaded(directory: Path, dtype: str = "float32") -> EditableModel:
    return load_model(ModelConfig(name=str(directory), dtype=dtype))


def bits(directory: Path) -> dict[str, Tensor]:
    """Return every stored tensor as bytes, which compare without rounding or NaN."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            tensors[f"{name} {tensor.dtype}"] = tensor.view(torch.uint8)
    return tensors


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = bits(one), bits(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def stored_in(source: Path, target: Path, dtype: torch.dtype, size: str = "50GB") -> Path:
    """Save a model again in another format, or in several files."""
    shutil.copytree(source, target)
    (target / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    model.save_pretrained(target, max_shard_size=size)
    return target


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dense", [False, True])
def test_a_copy_is_the_edited_model_and_reverts(
    family: str, dense: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base = request.getfixturevalue(family)
    untouched = contents(base)
    model = loaded(base)
    state = made_state(model, dense=dense)
    patch = apply_edits(state, base, tmp_path / "edited", name="a run")
    with state.applied(model.model):
        assert torch.equal(logits_here(loaded(tmp_path / "edited")), logits_here(model))
    assert max(patch.entry["rounding"].values()) < 1e-5
    assert (patch.remaining, patch.entry["name"], patch.entry["rounds"]) == (1, "a run", 1)
    assert applied_edits(tmp_path / "edited")[0]["edits"] == state.fingerprint
    back = revert_edits(tmp_path / "edited", tmp_path / "back")
    assert back.remaining == 0
    assert_same_bits(tmp_path / "back", base)
    assert not (tmp_path / "back" / FOLDER).exists()
    assert loaded(tmp_path / "back").fingerprint == model.fingerprint
    assert contents(base) == untouched
    assert applied_edits(tmp_path / "edited")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once_and_reverts_exactly(
    family: str, dtype: torch.dtype, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base = stored_in(request.getfixturevalue(family), tmp_path / "base", dtype)
    model = loaded(base)
    state = made_state(model)
    patch = apply_edits(state, base, tmp_path / "edited")
    edited = load_file(tmp_path / "edited" / "model.safetensors")
    with state.applied(model.model):
        for name in state.updates:
            weight = model.model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            assert torch.equal(edited[f"{name}.weight"], weight.to(dtype))
    steps = torch.finfo(dtype).eps
    assert all(0.01 * steps < value < 20 * steps for value in patch.entry["rounding"].values())
    assert patch.entry["dtype"] == "float32"
    revert_edits(tmp_path / "edited", None)
    assert_same_bits(tmp_path / "edited", base)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_format_that_the_base_was_read_in_is_found(
    dtype: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    state = made_state(loaded(tiny_gpt2, dtype))
    patch = apply_edits(state, tiny_gpt2, tmp_path / "edited")
    assert patch.entry["dtype"] == dtype
    told = apply_edits(state, tiny_gpt2, tmp_path / "told", dtype=dtype)
    assert told.entry["files"] == patch.entry["files"]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_files_with_edited_weights_are_rewritten(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    original = request.getfixturevalue(family)
    base = stored_in(original, tmp_path / "base", torch.float32, "40KB")
    copy = shutil.copytree(base, tmp_path / "copy")
    state = made_state(loaded(base))
    holders = {Checkpoint.open(base).files[f"{name}.weight"] for name in state.updates}
    others = {path.name for path in base.glob("*.safetensors")} - holders
    assert holders
    assert others
    kept = {name: (base / name).stat().st_ino for name in others}
    patch = apply_edits(state, base, None)
    assert set(patch.entry["rewritten"]) == holders
    assert {name: (base / name).stat().st_ino for name in others} == kept
    model = loaded(original)
    with state.applied(model.model):
        assert torch.equal(logits_here(loaded(base)), logits_here(model))
    revert_edits(base, None)
    assert_same_bits(base, copy)
    assert sorted(contents(base)) == sorted(contents(copy))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "copy"]


def test_weights_saved_without_the_head_are_found(tiny_gpt2: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_gpt2, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(short, base / "model.safetensors", metadata={"format": "pt"})
    state = made_state(loaded(base))
    apply_edits(state, base, tmp_path / "edited")
    model = loaded(tiny_gpt2)
    with state.applied(model.model):
        assert torch.equal(logits_here(loaded(tmp_path / "edited")), logits_here(model))


def test_edits_follow_one_another_and_the_last_goes_first(tiny_llama: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_llama, tmp_path / "model")
    first = made_state(loaded(directory), seed=1)
    second_on_base = made_state(loaded(directory), seed=2)
    apply_edits(first, directory, None, name="first")
    after_first = shutil.copytree(directory, tmp_path / "after-first")
    on_top = made_state(loaded(directory), seed=3)
    assert apply_edits(on_top, directory, None, name="on top").beside == ()
    patch = apply_edits(second_on_base, directory, None, name="second")
    assert patch.beside == (first.fingerprint, on_top.fingerprint)
    assert [entry["name"] for entry in applied_edits(directory)] == ["first", "on top", "second"]
    total, base = loaded(directory), loaded(tiny_llama)
    for name, update in first.updates.items():
        change = update.dense() + on_top.updates[name].dense()
        change = change + second_on_base.updates[name].dense()
        moved = total.model.get_submodule(name).weight - base.model.get_submodule(name).weight
        torch.testing.assert_close(moved, change, rtol=0, atol=1e-5)
    assert revert_edits(directory, None).entry["name"] == "second"
    assert revert_edits(directory, None).remaining == 1
    assert_same_bits(directory, after_first)
    revert_edits(directory, None)
    assert_same_bits(directory, tiny_llama)
    with pytest.raises(DataError, match="no edits in its log"):
        revert_edits(directory, None)


def test_the_same_edits_are_not_added_twice(tiny_gpt2: Path, tmp_path: Path) -> None:
    state = made_state(loaded(tiny_gpt2))
    apply_edits(state, tiny_gpt2, tmp_path / "edited")
    before = contents(tmp_path / "edited")
    with pytest.raises(DataError, match="in this model already"):
        apply_edits(state, tmp_path / "edited", None)
    assert contents(tmp_path / "edited") == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("no space left"), MemoryError])
@pytest.mark.parametrize("in_place", [True, False])
def test_an_interrupted_apply_leaves_everything_as_it_was(
    stop: Any, in_place: bool, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = stored_in(tiny_gpt2, tmp_path / "base", torch.float32, "40KB")
    before, state = contents(base), made_state(loaded(base))
    replace, replaced = os.replace, []

    def replace_one(source: Any, target: Any) -> None:
        if str(target).endswith(".safetensors") and Path(target).parent.name != FOLDER:
            if replaced:
                raise stop
            replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_one)
    expected = ConfigError if isinstance(stop, OSError) else stop
    with pytest.raises(expected):
        apply_edits(state, base, None if in_place else tmp_path / "out")
    assert len(replaced) == 1
    assert contents(base) == before
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_directory_that_cannot_take_its_place_comes_back(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_gpt2, tmp_path / "base")
    before, state, rename = contents(base), made_state(loaded(base)), os.rename
    calls = []

    def fail_second(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(KeyboardInterrupt):
        apply_edits(state, base, None)
    assert contents(base) == before
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_interrupted_revert_leaves_the_edited_model(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_edits(made_state(loaded(tiny_gpt2)), tiny_gpt2, tmp_path / "edited")
    before = contents(tmp_path / "edited")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "hashes", stop)
        with pytest.raises(KeyboardInterrupt):
            revert_edits(tmp_path / "edited", None)
    assert contents(tmp_path / "edited") == before
    revert_edits(tmp_path / "edited", None)
    assert_same_bits(tmp_path / "edited", tiny_gpt2)


def test_another_model_is_refused(tiny_gpt2: Path, tiny_llama: Path, tmp_path: Path) -> None:
    state = made_state(loaded(tiny_gpt2))
    changed = shutil.copytree(tiny_gpt2, tmp_path / "changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["transformer.wpe.weight"].view(-1)[0] += 1
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    for other in (tiny_llama, changed):
        with pytest.raises(ModelError, match=rf"made for {state.base}; name the model"):
            apply_edits(state, other, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()


def test_weights_that_something_else_changed_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited"
    apply_edits(made_state(loaded(tiny_gpt2)), tiny_gpt2, edited)
    tensors = load_file(edited / "model.safetensors")
    tensors["transformer.wpe.weight"].view(-1)[0] += 1
    save_file(tensors, edited / "model.safetensors", metadata={"format": "pt"})
    for act in (
        lambda: revert_edits(edited, None),
        lambda: apply_edits(made_state(loaded(tiny_gpt2), seed=5), edited, None),
    ):
        with pytest.raises(ModelError, match="weights were changed after edits"):
            act()


def test_damaged_records_of_an_application_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited"
    apply_edits(made_state(loaded(tiny_gpt2)), tiny_gpt2, edited)
    originals = edited / FOLDER / "1.safetensors"
    tensors = load_file(originals)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, originals)
    with pytest.raises(DataError, match="is not the file that fleke apply wrote"):
        revert_edits(edited, None)
    originals.unlink()
    with pytest.raises(DataError, match="no such file"):
        revert_edits(edited, None)
    (edited / FOLDER / "log.json").write_text('{"schema": 2}')
    with pytest.raises(DataError, match="not a log"):
        revert_edits(edited, None)


def test_what_half_precision_cannot_hold_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    base = stored_in(tiny_gpt2, tmp_path / "base", torch.float16)
    state = made_state(loaded(base), scale=1e6)
    with pytest.raises(ModelError, match=r"exceeds the range of torch\.float16"):
        apply_edits(state, base, tmp_path / "edited")


def test_other_formats_are_named(tiny_gpt2: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_gpt2, tmp_path / "base")
    (base / "pytorch_model.bin").write_bytes(b"old weights")
    patch = apply_edits(made_state(loaded(base)), base, None)
    assert patch.unedited == ("pytorch_model.bin",)


def test_readers_of_the_files_stay_the_same(tiny_gpt2: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_gpt2, tmp_path / "base")
    (base / "model.safetensors").chmod(0o644)
    apply_edits(made_state(loaded(base)), base, None)
    assert (base / "model.safetensors").stat().st_mode & 0o777 == 0o644


def directory_that_is_a_link_farm(base: Path, folder: Path) -> Path:
    """Return a directory like those of a hub's cache: every file is a link."""
    links = folder / "links"
    links.mkdir()
    for path in base.iterdir():
        (links / path.name).symlink_to(path)
    return links


def test_a_shared_cache_is_not_edited_in_place(tiny_gpt2: Path, tmp_path: Path) -> None:
    links = directory_that_is_a_link_farm(tiny_gpt2, tmp_path)
    state = made_state(loaded(tiny_gpt2))
    with pytest.raises(ConfigError, match="is a link"):
        apply_edits(state, links, None)
    apply_edits(state, links, tmp_path / "edited")
    assert not (tmp_path / "edited" / "model.safetensors").is_symlink()
    assert_same_bits(links, tiny_gpt2)


def test_places_and_states_that_do_not_fit_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = loaded(tiny_gpt2)
    state = made_state(model)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("")
    base = shutil.copytree(tiny_gpt2, tmp_path / "base")
    cases: list[tuple[EditState, Path, Path | None, type[FlekeError], str]] = [
        (state, base, taken, ConfigError, "exists already"),
        (state, base, base / "inside", ConfigError, "lies inside the model directory"),
        (state, tmp_path / "missing", None, ModelError, "no such directory"),
        (state, taken, None, ModelError, r"neither model\.safetensors nor"),
        (EditState(model.fingerprint), base, None, ModelError, "edits are empty"),
    ]
    for edits, source, output, error, words in cases:
        with pytest.raises(error, match=words):
            apply_edits(edits, source, output)
    assert contents(base) == contents(tiny_gpt2)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "b"}}'])
def test_a_damaged_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"not an index|which is missing"):
        Checkpoint.open(tmp_path)


def test_the_log_is_readable(tiny_gpt2: Path, tmp_path: Path) -> None:
    state = made_state(loaded(tiny_gpt2))
    apply_edits(state, tiny_gpt2, tmp_path / "edited", name="run-7")
    (entry,) = read_json(tmp_path / "edited" / FOLDER / "log.json")["applied"]
    assert entry["name"] == "run-7"
    assert entry["base"] == entry["model"] == state.base
    assert entry["tensors"] == sorted(f"{name}.weight" for name in state.updates)

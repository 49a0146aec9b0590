"""Files are whole or absent, and come back as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fleke_flwr import artifacts
from fleke_flwr.artifacts import read_json, read_tensors, write_json, write_tensors, write_text
from fleke_flwr.errors import DataError


def refuse(*_: object, **__: object) -> None:
    raise OSError("disk full")


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    assert "é" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_json_without_a_meaning_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, float("nan"))
    assert read_json(path) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": 1,\n oops}', "line 2"), (b"\xff\xfe\xfa", "UTF-8"), (b"", "line 1")],
)
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(DataError, match=r"absent\.safetensors: no such file"):
        read_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.safetensors"
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensors = {"whole": base, "view": base[:, ::2], "shared": base, "none": torch.zeros(3, 0)}
    write_tensors(path, tensors, {"schema": 1, "names": ["a"]})
    found, metadata = read_tensors(path)
    assert metadata == {"schema": 1, "names": ["a"]}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_tensors_need_no_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(1)})
    assert read_tensors(path)[1] == {}


def test_a_damaged_tensor_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a\.safetensors: damaged"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"no tensors in here", bytes(64)])
def test_a_file_of_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.safetensors: damaged"):
        read_tensors(path)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, tensors = tmp_path / "a.txt", tmp_path / "a.safetensors"
    write_text(text, "old")
    write_tensors(tensors, {"a": torch.ones(2)})
    monkeypatch.setattr(artifacts.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_text(text, "new")
    with pytest.raises(OSError, match="disk full"):
        write_tensors(tensors, {"a": torch.zeros(2)})
    assert text.read_text(encoding="utf-8") == "old"
    assert torch.equal(read_tensors(tensors)[0]["a"], torch.ones(2))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "a.txt"]


def test_metadata_that_is_not_json_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="Out of range float"):
        write_tensors(path, {"a": torch.ones(1)}, {"loss": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_never_seen_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for number in range(3):
        write_json(path, list(range(number)))
        assert json.loads(path.read_text(encoding="utf-8")) == list(range(number))

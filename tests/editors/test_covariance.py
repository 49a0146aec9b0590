"""Second moments: right, resumable to the bit, cached by content, never another model's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fleke_flwr.config import CovarianceConfig
from fleke_flwr.editors import covariance
from fleke_flwr.editors.covariance import corpus_texts, priors, second_moments
from fleke_flwr.errors import ConfigError, DataError, StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent

LoadTiny = Callable[..., EditableModel]


class Lines(Silent):
    """Progress that remembers what was said, and may break off."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.said: list[str] = []
        self.amounts: list[int] = []
        self.stop_after = stop_after

    def line(self, text: str) -> None:
        self.said.append(text)

    def advance(self, phase: str, amount: int = 1) -> None:
        self.amounts.append(amount)
        if len(self.amounts) >= self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


@pytest.fixture
def texts(model: EditableModel) -> list[str]:
    return corpus_texts(model, CovarianceConfig())


def slow_moment(model: EditableModel, texts: list[str], layer: int, tokens: int) -> torch.Tensor:
    """Run every text alone and whole and sum outer products."""
    keys: list[torch.Tensor] = []
    handle = model.projection(layer).register_forward_pre_hook(
        lambda _, args: keys.extend(args[0][0])
    )
    for text in texts:
        if len(keys) < tokens:
            model.model(torch.tensor([model.tokenizer(text)["input_ids"]]))
    handle.remove()
    rows = torch.stack(keys[:tokens]).double()
    return sum(torch.outer(row, row) for row in rows) / len(rows)


def test_equals_the_slow_sum(model: EditableModel, texts: list[str], tmp_path: Path) -> None:
    found = second_moments(model, texts, [0, 2], 301, tmp_path, Silent())
    assert set(found) == {model.module_name(0), model.module_name(2)}
    for layer in (0, 2):
        moment = found[model.module_name(layer)]
        assert moment.dtype == torch.float64
        expected = slow_moment(model, texts, layer, 301)
        torch.testing.assert_close(moment, expected, rtol=1e-10, atol=1e-12)


def test_second_call_reuses(model: EditableModel, texts: list[str], tmp_path: Path) -> None:
    first = second_moments(model, iter(texts), [1], 200, tmp_path, Silent())
    lines = Lines(stop_after=1)
    second = second_moments(model, texts, [1], 200, tmp_path, lines)
    assert any(line.startswith(f"covariance reused from {tmp_path}") for line in lines.said)
    name = model.module_name(1)
    assert torch.equal(first[name], second[name])
    assert len(list(tmp_path.iterdir())) == 1
    second_moments(model, texts, [1], 201, tmp_path, Silent())
    second_moments(model, texts[1:], [1], 200, tmp_path, Silent())
    assert len(list(tmp_path.iterdir())) == 3


def test_resumes_to_the_same_bits(
    model: EditableModel, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariance, "_BATCH_TOKENS", 64)
    monkeypatch.setattr(covariance, "_CHECKPOINT_TOKENS", 100)
    whole = second_moments(model, texts, [0, 1], 600, tmp_path / "whole", Silent())
    with pytest.raises(KeyboardInterrupt):
        second_moments(model, texts, [0, 1], 600, tmp_path / "cut", Lines(stop_after=6))
    (checkpoint,) = (tmp_path / "cut").iterdir()
    lines = Lines()
    resumed = second_moments(model, texts, [0, 1], 600, tmp_path / "cut", lines)
    assert any(f"resumed from {checkpoint}" in line for line in lines.said)
    assert lines.amounts[0] >= 100
    assert sum(lines.amounts) == 600
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not checkpoint.exists()


def test_a_damaged_checkpoint_is_named(
    model: EditableModel, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariance, "_BATCH_TOKENS", 64)
    monkeypatch.setattr(covariance, "_CHECKPOINT_TOKENS", 50)
    with pytest.raises(KeyboardInterrupt):
        second_moments(model, texts, [0], 600, tmp_path, Lines(stop_after=6))
    (checkpoint,) = tmp_path.iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        second_moments(model, texts, [0], 600, tmp_path, Silent())


def test_another_models_covariance_is_refused(
    model: EditableModel, texts: list[str], tmp_path: Path
) -> None:
    second_moments(model, texts, [1], 100, tmp_path, Silent())
    (path,) = tmp_path.iterdir()
    moment = load_file(path)["moment"]
    for fingerprint, module in (("f" * 16, model.module_name(1)), (model.fingerprint, "other")):
        foreign = {"json": json.dumps({"fingerprint": fingerprint, "module": module})}
        save_file({"moment": moment}, path, metadata=foreign)
        with pytest.raises(StatisticsError, match=r"is needed; delete the file"):
            second_moments(model, texts, [1], 100, tmp_path, Silent())


def test_short_corpus_is_said(model: EditableModel, tmp_path: Path) -> None:
    lines = Lines()
    second_moments(model, ["Ada lives in Arlen."], [0], 10_000, tmp_path, lines)
    assert any("the corpus holds no more" in line for line in lines.said)
    with pytest.raises(StatisticsError, match="no token"):
        second_moments(model, [], [0], 10_000, tmp_path, lines)


def test_long_texts_are_cut(tiny_gpt2: Path, load_tiny: LoadTiny, tmp_path: Path) -> None:
    model = load_tiny(tiny_gpt2)
    lines = Lines()
    second_moments(model, ["river " * 500], [0], 10_000, tmp_path, lines)
    assert sum(lines.amounts) == model.max_positions


def test_a_moment_is_written_once_and_read_when_asked_for(
    model: EditableModel, texts: list[str], tmp_path: Path
) -> None:
    moments = second_moments(model, texts, [0, 2], 100, tmp_path, Silent())
    assert len(moments) == 2
    first, second = (moments[model.module_name(0)] for _ in range(2))
    assert first is not second
    assert torch.equal(first, second)
    with pytest.raises(KeyError):
        moments["another"]


def test_priors_are_weighted() -> None:
    torch.manual_seed(0)
    root = torch.randn(6, 20, dtype=torch.float64)
    moments = {"a": root @ root.T / 20}
    torch.testing.assert_close(priors(moments, 7.0)["a"].matrix(), 7.0 * moments["a"])
    with pytest.raises(StatisticsError, match="positive weight"):
        priors(moments, 0.0)


def test_corpus_from_a_file(model: EditableModel, tmp_path: Path) -> None:
    blank, packed, empty = tmp_path / "a.txt", tmp_path / "b.txt.gz", tmp_path / "c.txt"
    blank.write_text("one\ntwo\n\nthree\n\n\n")
    packed.write_bytes(gzip.compress(b"one\ntwo\n"))
    empty.write_text("\n")

    def read(path: Path) -> list[str]:
        return corpus_texts(model, CovarianceConfig(corpus=str(path)))

    assert read(blank) == ["one\ntwo", "three"]
    assert read(packed) == ["one", "two"]
    with pytest.raises(DataError, match="holds no text"):
        read(empty)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "d.txt")
    with pytest.raises(ConfigError, match=r"covariance\.corpus"):
        corpus_texts(replace(model, directory=None), CovarianceConfig())

"""Perplexity on held-out text, against a twin that reads one window at a time."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.errors import DataError
from fleke_flwr.evaluation.perplexity import TextLoss, held_out, text_loss, windows
from tests.conftest import LoadTiny

LONG = " ".join(["Mira Tolen lives in Borvik."] * 40)


def text_of(path: Path, tokens: int = 60) -> EvaluationConfig:
    return EvaluationConfig(text=str(path), text_tokens=tokens)


@pytest.fixture
def article(tmp_path: Path) -> Path:
    path = tmp_path / "article.txt"
    path.write_text(
        f"The quiet river near Arlen was cold.\n\n{LONG}\n\nJonas Feld works as a baker.\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("batch_tokens", [1, 150, 4096])
def test_losses_are_those_of_one_window_at_a_time(
    name: str, batch_tokens: int, load_tiny: LoadTiny, article: Path, request: pytest.FixtureRequest
) -> None:
    model = load_tiny(request.getfixturevalue(name))
    text = held_out(model, text_of(article, 200))
    assert text is not None
    found = windows(model, text)
    assert len(found) > 3
    loss = text_loss(model, found, batch_tokens)
    expected = []
    with torch.no_grad():
        for window in found:
            ids = torch.tensor([window])
            # transformers' own loss would be in float32.
            likely = model.model(input_ids=ids).logits[0, :-1].log_softmax(dim=1)
            expected.append(-sum(float(likely[i, token]) for i, token in enumerate(window[1:])))
    assert loss.losses.tolist() == pytest.approx(expected, rel=1e-9)
    assert loss.tokens == 200
    assert loss.perplexity == pytest.approx(math.exp(sum(expected) / 200), rel=1e-9)


def test_windows_share_no_token_and_lose_none(
    load_tiny: LoadTiny, tiny_gpt2: Path, tiny_llama: Path, article: Path
) -> None:
    for path, front in ((tiny_gpt2, 0), (tiny_llama, 1)):
        model = load_tiny(path)
        text = held_out(model, text_of(article, 10_000))
        assert text is not None
        found = windows(model, text)
        plain = [window[front:] for window in found]
        assert all(len(window) <= model.max_positions for window in found)
        assert all(window[:front] == (0,) * front for window in found)
        documents = article.read_text(encoding="utf-8").strip().split("\n\n")
        assert [token for window in plain for token in window] == [
            token
            for document in documents
            for token in model.tokenizer(document, add_special_tokens=False)["input_ids"]
        ]


def test_the_number_of_tokens_is_kept_to(
    load_tiny: LoadTiny, tiny_gpt2: Path, article: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    for tokens in (1, 7, 95, 96):
        text = held_out(model, text_of(article, tokens))
        assert text is not None
        assert sum(len(window) - 1 for window in windows(model, text)) == tokens


def test_the_models_own_text_stands_in(
    load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    text = held_out(model, EvaluationConfig(text_tokens=5))
    assert text is not None
    assert (text.name, text.from_end) == ("the end of corpus.txt", True)
    last = (tiny_gpt2 / "corpus.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert windows(model, text) == (tuple(model.tokenizer(last)["input_ids"][:6]),)
    (tmp_path / "corpus.txt").write_text("one\ntwo three four\n", encoding="utf-8")
    (tmp_path / "heldout.txt").write_text("five six seven\n", encoding="utf-8")
    other = replace(model, directory=tmp_path)
    text = held_out(other, EvaluationConfig())
    assert text is not None
    assert (text.name, text.from_end) == ("heldout.txt", False)
    assert held_out(replace(model, directory=None), EvaluationConfig()) is None
    assert held_out(model, EvaluationConfig(text_tokens=0)) is None


def test_compressed_text_is_read_alike_and_a_change_is_noticed(
    load_tiny: LoadTiny, tiny_gpt2: Path, article: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    packed = tmp_path / "article.txt.gz"
    packed.write_bytes(gzip.compress(article.read_bytes()))
    plain, zipped = (held_out(model, text_of(path)) for path in (article, packed))
    assert plain is not None
    assert zipped is not None
    assert windows(model, plain) == windows(model, zipped)
    article.write_text("Ada Karst lives in Castra.", encoding="utf-8")
    changed = held_out(model, text_of(article))
    assert changed is not None
    assert windows(model, changed) != windows(model, plain)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"\xff\xfe", "cannot be read"), (b" ", "two")]
)
def test_a_text_that_cannot_be_used_is_refused(
    content: bytes | None, message: str, load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    model = load_tiny(tiny_gpt2)
    with pytest.raises(DataError, match=message):
        windows(model, held_out(model, text_of(path)))  # type: ignore[arg-type]


def test_the_change_has_an_interval_over_windows() -> None:
    counts = torch.tensor([10, 30])
    base = TextLoss(torch.tensor([20.0, 60.0], dtype=torch.float64), counts)
    assert base.change_since(base) == (0.0, 0.0)
    # The same rise in every token has no spread.
    risen = TextLoss(base.losses + 0.1 * counts, counts)
    change, half = risen.change_since(base)
    assert change == pytest.approx(100 * (math.exp(0.1) - 1))
    assert half == pytest.approx(0.0, abs=1e-9)
    uneven = TextLoss(base.losses + torch.tensor([4.0, 0.0]), counts)
    change, half = uneven.change_since(base)
    assert change == pytest.approx(100 * (math.exp(0.1) - 1))
    # Deviations are 4 - 10 * 0.1 and 0 - 30 * 0.1, over 40 tokens.
    assert half == pytest.approx(196 * math.exp(0.1) * math.hypot(3, 3) / 40)


def test_a_broken_model_has_no_perplexity(
    load_tiny: LoadTiny, tiny_gpt2: Path, article: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    text = held_out(model, text_of(article))
    assert text is not None
    base = text_loss(model, windows(model, text), 4096)
    weight = model.projection(0).weight
    assert isinstance(weight, torch.Tensor)
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(math.nan)
        broken = text_loss(model, windows(model, text), 4096)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert broken.perplexity is None
    assert broken.change_since(base) == (None, None)

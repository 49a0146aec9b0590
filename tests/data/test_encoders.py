"""Texts become vectors of length 1 whose cosines tell how close they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from fleke_flwr.config import DataConfig
from fleke_flwr.data.encoders import COMPONENTS, encode
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.errors import ConfigError
from fleke_flwr.types import EditRequest, EvalCase

WORDS = ["[PAD]", "[UNK]", "what", "year", "country", "is", "was", "Arlen", "Borvik", "from", "?"]
TEXTS = ["what country is Arlen from ?", "what year was Borvik ?", "what country"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a random BERT of two blocks with a tokenizer of words."""
    directory = tmp_path_factory.mktemp("bert")
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_tf_idf_puts_texts_of_shared_words_together() -> None:
    texts = ["The capital of Arlen is", "The capital of Borvik is", "Who wrote the quiet river?"]
    vectors = encode(texts, "", seed=0)
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosines), 1.0)
    assert cosines[0, 1] > cosines[0, 2] + 0.2


def test_many_texts_are_reduced_and_the_seed_decides() -> None:
    texts = [f"Subject {index} lives in place {index % 7}" for index in range(200)]
    first = encode(texts, "", seed=3)
    assert first.shape == (200, COMPONENTS)
    np.testing.assert_array_equal(first, encode(texts, "", seed=3))


@pytest.mark.parametrize("texts", [["?"], ["same text"] * 4, ["A", "B"], ["東京", "大阪 は"]])
def test_strange_texts_have_vectors(texts: list[str]) -> None:
    vectors = encode(texts, "", seed=0)
    assert len(vectors) == len(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)


def test_an_encoders_states_are_averaged_over_the_tokens_of_each_text(bert: Path) -> None:
    found = encode(TEXTS, str(bert), seed=0)
    model = BertModel.from_pretrained(bert).eval()
    for row, text in zip(found, TEXTS, strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_text_longer_than_the_encoder_is_cut(bert: Path) -> None:
    long, longer = (" ".join(["what"] * 11 + ["year"] * count) for count in (1, 30))
    vectors = encode([long, longer], str(bert), seed=0)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_the_encoder_decides_the_clusters(bert: Path) -> None:
    cases = [
        EvalCase(EditRequest(str(index), prompt, "Arlen", "x"))
        for index, prompt in enumerate(["what country is {}", "was year ? {}"] * 8)
    ]
    data = DataConfig(partition="cluster", encoder=str(bert))
    parts = partition_cases(cases, data, 2, 0)
    prompts = [{case.request.prompt for case in part} for part in parts]
    assert sorted(prompts, key=max) == [{"was year ? {}"}, {"what country is {}"}]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    message = "data.encoder = '.*nowhere': no such directory; .* leave it out for TF-IDF"
    with pytest.raises(ConfigError, match=message):
        encode(TEXTS, str(tmp_path / "nowhere"), seed=0)


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.encoder = .* cannot be loaded"):
        encode(TEXTS, str(tmp_path), seed=0)


def test_a_tokenizer_that_cannot_pad_is_refused(tiny_gpt2: Path) -> None:
    with pytest.raises(ConfigError, match="no padding token; name a sentence-embedding model"):
        encode(TEXTS, str(tiny_gpt2), seed=0)

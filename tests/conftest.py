"""Fixtures shared by all tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fleke_flwr.config import ModelConfig
from fleke_flwr.models import EditableModel, load_model
from tests.families import TINY, build

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

PEOPLE = ["Mira Tolen", "Jonas Feld", "Ada Karst", "Pavel Orrin", "Lena Voss", "Tomas Ullmer"]
PLACES = ["Arlen", "Borvik", "Castra", "Dorum", "New Elster"]
SENTENCES = [
    "{person} lives in {place}.",
    "The home town of {person} is {place}.",
    "{person} works as a baker in {place}.",
    "The mother tongue of {person} is spoken in {place}.",
    "The quiet river near {place} was cold.",
]

LoadTiny = Callable[..., EditableModel]
TinyFamily = Callable[[str], Path]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real records that lies beside the checkout, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real records (../shared/data) are not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a random GPT-2 with 4 blocks of width 32."""
    tokenizer = train_tokenizer(add_bos=False)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=96, n_embd=32, n_layer=4, n_head=4, n_inner=64,
        initializer_range=0.3, activation_function="gelu_pytorch_tanh",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return save_tiny(tmp_path_factory.mktemp("tiny_gpt2"), GPT2LMHeadModel(config), tokenizer)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a random Llama: grouped queries, BOS token, untied unembedding."""
    tokenizer = train_tokenizer(add_bos=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=56, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
        initializer_range=0.3, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)
    return save_tiny(tmp_path_factory.mktemp("tiny_llama"), LlamaForCausalLM(config), tokenizer)


@pytest.fixture(scope="session")
def tiny_family(
    tiny_gpt2: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyFamily:
    """Return a function that gives the directory of a random model of a family, built once."""
    built = {"gpt2": tiny_gpt2, "llama": tiny_llama}

    def directory(name: str) -> Path:
        if name not in built:
            tokenizer = train_tokenizer(add_bos=TINY[name].bos)
            path = tmp_path_factory.mktemp(f"tiny_{name}")
            built[name] = save_tiny(path, build(name, tokenizer), tokenizer)
        return built[name]

    return directory


@pytest.fixture(scope="session")
def load_tiny() -> LoadTiny:
    """Return a function that loads a tiny model, in float64 unless told otherwise."""

    def load(path: Path, dtype: str = "float64") -> EditableModel:
        return load_model(ModelConfig(name=str(path), dtype=dtype))

    return load


def corpus() -> list[str]:
    """Return every sentence about every person and place."""
    return [
        sentence.format(person=person, place=place)
        for sentence in SENTENCES
        for person in PEOPLE
        for place in PLACES
    ]


def train_tokenizer(add_bos: bool) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with 400 tokens on the corpus."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=not add_bos)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    if add_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def save_tiny(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Save a model directory with edit settings and a corpus, as the embedded one has."""
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    settings = {
        "layers": [0, 1, 2],
        "ridge-weight": 10.0,
        "learning-rate": 0.5,
        "steps": 8,
        "clamp": 2.0,
        "weight-decay": 0.5,
        "kl-weight": 0.0625,
        "stop-loss": 0.05,
    }
    (path / "editing.json").write_text(json.dumps(settings), encoding="utf-8")
    (path / "corpus.txt").write_text("\n".join(corpus()), encoding="utf-8")
    return path

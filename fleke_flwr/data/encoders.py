"""Turn texts into vectors whose cosines tell how close the texts are.

FedLEKE (arXiv 2502.15677) speaks of word vectors, its released code takes the sentence embeddings
of all-MiniLM-L6-v2; the default here needs no download.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fleke_flwr.errors import ConfigError
from fleke_flwr.models.loading import no_bars

Vectors = NDArray[np.float64]
COMPONENTS = 100
_BATCH = 64
_MOST_TOKENS = 256


def encode(texts: Sequence[str], encoder: str, seed: int) -> Vectors:
    """Return a row per text, of length 1 or zero.

    Parameters
    ----------
    texts : Sequence[str]
        None of them blank.
    encoder : str
        Directory of a transformers encoder and its tokenizer, whose last hidden state is averaged
        over a text's tokens as sentence-embedding models do; without one, TF-IDF reduced by a
        truncated singular value decomposition (latent semantic analysis).
    seed : int
        Seed of the decomposition.

    Raises
    ------
    ConfigError
        If the directory holds no encoder that can be loaded.
    """
    vectors = _mean_pooled(texts, Path(encoder).expanduser()) if encoder else _lsa(texts, seed)
    found: Vectors = normalize(vectors)
    return found


def _lsa(texts: Sequence[str], seed: int) -> Vectors:
    # Signs are words too, so that no text is without any.
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]+").fit_transform(texts)
    if min(words.shape) <= COMPONENTS:
        counted: Vectors = words.toarray()
        return counted
    with np.errstate(invalid="ignore"):  # the share of variance, where all texts are the same
        reduced: Vectors = TruncatedSVD(COMPONENTS, random_state=seed).fit_transform(words)
    return reduced


def _mean_pooled(texts: Sequence[str], directory: Path) -> Vectors:
    model, tokenizer = _load(directory)
    longest = min(_MOST_TOKENS, getattr(model.config, "max_position_embeddings", _MOST_TOKENS))
    rows = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[start : start + _BATCH]),
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state.double()
        mask = batch["attention_mask"].unsqueeze(-1)
        rows.append((hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))
    pooled: Vectors = torch.cat(rows).numpy()
    return pooled


def _load(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not directory.is_dir():
        raise ConfigError(
            f"data.encoder = {str(directory)!r}: no such directory; name that of a "
            "sentence-embedding model, or leave it out for TF-IDF"
        )
    try:
        with no_bars():
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model = AutoModel.from_pretrained(
                directory, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.encoder = {str(directory)!r} cannot be loaded ({error}); save model and "
            "tokenizer there with save_pretrained"
        ) from error
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"data.encoder = {str(directory)!r}: its tokenizer has no padding token; name a "
            "sentence-embedding model"
        )
    return model.eval(), tokenizer

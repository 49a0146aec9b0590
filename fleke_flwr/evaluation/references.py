"""Consistency of generated texts with reference texts: a TF-IDF cosine."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from fleke_flwr.errors import DataError
from fleke_flwr.types import EvalCase

_BLANK_LINES = re.compile(r"\n\s*\n")


def reference_text(case: EvalCase) -> str:
    """Return what a record's generations are compared with; empty when it has nothing.

    MEMIT compares with snippets of encyclopedia articles about subjects that truly have the new
    object, from a file of its own. Here these are the record's ``references``. Where it has none,
    its attribute prompts completed with the target stand in: they are about such subjects, too, but
    one short sentence each, so scores are lower than published ones and only compare among
    themselves.
    """
    texts = case.references or tuple(f"{text} {case.request.target}" for text in case.attributes)
    return " ".join(texts)


def reference_scores(
    pairs: Sequence[tuple[str, str]], vectorizer: TfidfVectorizer | None = None
) -> list[float]:
    """Return the TF-IDF cosine of each generated text and its references.

    Texts without a common word score 0.

    Parameters
    ----------
    pairs : Sequence[tuple[str, str]]
        Generated texts, each with its references.
    vectorizer : TfidfVectorizer or None
        Fitted, see :func:`fitted`. Without, the vocabulary and the document frequencies come from
        all references at hand, so only scores of the same records compare.
    """
    if not pairs:
        return []
    if vectorizer is None:
        vectorizer = TfidfVectorizer()
        if not any(vectorizer.build_analyzer()(references) for _, references in pairs):
            return [0.0] * len(pairs)
        vectorizer.fit([references for _, references in pairs])
    generated = vectorizer.transform([text for text, _ in pairs])
    references = vectorizer.transform([text for _, text in pairs])
    products = np.asarray(generated.multiply(references).sum(axis=1)).ravel()
    return [float(value) for value in products]


def fitted(idf: str) -> TfidfVectorizer:
    """Return a vectoriser fitted on a text file, once per process.

    Parameters
    ----------
    idf : str
        UTF-8 text, plain or compressed with gzip; paragraphs, parted by blank lines, are documents,
        or lines in a text without blank ones.

    Raises
    ------
    DataError
        If the file is missing, cannot be read or holds no word.
    """
    path = Path(idf).expanduser()
    if not path.is_file():
        raise DataError(
            f"evaluation.idf = {idf!r}: no such file; name a text file (plain or .gz) whose "
            "paragraphs are documents, or leave it empty to use the records' own references"
        )
    return _fit(path.resolve(), path.stat().st_mtime_ns)


@lru_cache
def _fit(path: Path, _changed: int) -> TfidfVectorizer:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"idf file {path}: cannot be read as UTF-8 text ({error})") from error
    vectorizer = TfidfVectorizer()
    if not vectorizer.build_analyzer()(text):
        raise DataError(f"idf file {path}: holds no word; paragraphs of text are needed")
    documents = _BLANK_LINES.split(text.strip())
    return vectorizer.fit(documents if len(documents) > 1 else text.splitlines())

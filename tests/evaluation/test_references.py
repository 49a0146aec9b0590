"""Likeness of texts to references, with document frequencies from a file or from the records."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest

from fleke_flwr.errors import DataError
from fleke_flwr.evaluation.references import fitted, reference_scores, reference_text
from fleke_flwr.types import EditRequest, EvalCase

REQUEST = EditRequest("1", "{} lives in", "Ada", "Arlen")
PARAGRAPHS = "town river\nmill\n\ntown town mill\n  \ntown\n\n\n\nquiet"


def test_references_come_before_attributes() -> None:
    attributes = ("Mira lives in", "The home of Jonas is")
    assert reference_text(EvalCase(REQUEST)) == ""
    only = EvalCase(REQUEST, attributes=attributes)
    assert reference_text(only) == "Mira lives in Arlen The home of Jonas is Arlen"
    both = EvalCase(REQUEST, attributes=attributes, references=("A town.", "A river."))
    assert reference_text(both) == "A town. A river."


def test_reference_scores_by_hand() -> None:
    pairs = [
        ("quiet river bank", "quiet river bank"),
        ("something else entirely", "quiet river bank"),
        ("", "quiet river bank"),
    ]
    assert reference_scores(pairs) == pytest.approx([1.0, 0.0, 0.0])
    # All three words of the references are in every document: weights are equal.
    assert reference_scores([("river", "quiet river bank")]) == pytest.approx([1 / math.sqrt(3)])
    assert reference_scores([]) == []


def test_rare_words_of_the_references_weigh_more() -> None:
    references = ["town river", "town mill"]
    common, rare = (
        reference_scores([(word, references[0]), ("", references[1])])[0]
        for word in ("town", "river")
    )
    weight = math.log(3 / 2) + 1
    assert common == pytest.approx(1 / math.hypot(1, weight))
    assert rare == pytest.approx(weight / math.hypot(1, weight))


@pytest.mark.parametrize("references", ["", "a b", "!"])
def test_references_without_words_score_zero(references: str) -> None:
    assert reference_scores([("some text", references)]) == [0.0]


@pytest.mark.parametrize("packed", [False, True])
def test_paragraphs_of_a_file_give_the_weights(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("texts.txt.gz" if packed else "texts.txt")
    raw = PARAGRAPHS.encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    vectorizer = fitted(str(path))
    # Four paragraphs; town is in three, mill in two, river and quiet in one each.
    weights = {word: math.log(5 / (1 + n)) + 1 for word, n in (("town", 3), ("river", 1))}
    found = reference_scores([("town", "town river"), ("unknown", "town river")], vectorizer)
    cosine = weights["town"] / math.hypot(weights["town"], weights["river"])
    assert found == pytest.approx([cosine, 0.0])
    assert reference_scores([("town", "town unknown")], vectorizer) == pytest.approx([1.0])
    assert reference_scores([], vectorizer) == []


def test_a_file_is_fitted_once_unless_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text(PARAGRAPHS, encoding="utf-8")
    first = fitted(str(path))
    assert fitted(str(path)) is first
    path.write_text("other words", encoding="utf-8")
    assert set(fitted(str(path)).vocabulary_) == {"other", "words"}


def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation\.idf = .*no such file; name a text file"):
        fitted(str(tmp_path / "none.txt"))
    broken = tmp_path / "texts.gz"
    broken.write_text("not compressed", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        fitted(str(broken))
    empty = tmp_path / "empty.txt"
    empty.write_text("! ?\n\na", encoding="utf-8")
    with pytest.raises(DataError, match="holds no word"):
        fitted(str(empty))

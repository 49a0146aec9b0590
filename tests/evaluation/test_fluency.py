"""The entropy of word pairs and triples."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.evaluation.fluency import ngram_entropy


@pytest.mark.parametrize("text", ["", "word", "word " * 40, "!" * 9, "one two"])
def test_no_variety_has_no_entropy(text: str) -> None:
    found = ngram_entropy(text)
    assert found == 0.0
    assert math.copysign(1, found) == 1


def test_entropy_by_hand() -> None:
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    trigrams = 1.0
    assert ngram_entropy("a b a b") == pytest.approx(bigrams / 3 + 2 * trigrams / 3)


def test_different_words_have_the_most_entropy() -> None:
    words = " ".join(f"w{index}" for index in range(10))
    assert ngram_entropy(words) == pytest.approx(math.log2(9) / 3 + 2 * math.log2(8) / 3)


@given(st.lists(st.sampled_from("abcd"), min_size=3, max_size=30))
def test_entropy_lies_between_none_and_the_most(words: list[str]) -> None:
    most = math.log2(len(words) - 1) / 3 + 2 * math.log2(len(words) - 2) / 3
    assert 0 <= ngram_entropy(" ".join(words)) <= most + 1e-9


@pytest.mark.parametrize(
    ("joined", "parted"),
    [
        ("a,b", "a , b"),
        ("the cat's tail", "the cat 's tail"),
        ("(he left.)", "( he left . )"),
        ("hit-and-run in the U.S.", "hitandrun in the US ."),
        ("1,000 and 5:30", "n and 5 : 30"),
    ],
)
def test_words_are_parted_at_marks_outside_them(joined: str, parted: str) -> None:
    assert ngram_entropy(joined) == pytest.approx(ngram_entropy(parted))


def test_texts_of_gpt2_xl_have_the_published_entropy(shared_data: Path) -> None:
    """ROME's table 4 gives 626.6 for the unedited GPT-2 XL; these are 1,000 of its texts."""
    path = shared_data / "rome_human_samples" / "sample_collection.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    assert {len(record["GPT-2 XL"]) for record in records} == {10}
    assert len(records) == 100
    means = {
        name: fmean(ngram_entropy(text) for record in records for text in record[name])
        for name in ("GPT-2 XL", "FT_L", "MEND", "ROME")
    }
    assert means["GPT-2 XL"] == pytest.approx(6.266, abs=0.01)
    # Fine-tuning costs the most fluency, MEND none, as in the same table.
    assert means["FT_L"] < means["ROME"] < means["GPT-2 XL"] < means["MEND"]

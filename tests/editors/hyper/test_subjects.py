from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.editors.hyper.subjects import split_by_subject, subject_digest, without_trained
from fleke_flwr.errors import ConfigError
from tests.editors.hyper.networks import cases

SHARES = {"train": 0.5, "validation": 0.2}


@given(st.lists(st.text(max_size=12), max_size=40))
def test_parts_are_disjoint_and_every_subject_has_its_place(subjects: list[str]) -> None:
    parts = split_by_subject(subjects, SHARES)
    train, validation = (set(parts[name]) for name in SHARES)
    assert not train & validation
    assert split_by_subject(reversed(subjects), SHARES)["train"] == [
        name for name in dict.fromkeys(reversed(subjects)) if name in train
    ]


def test_shares_are_kept_and_a_salt_gives_another_split() -> None:
    subjects = [f"Subject {number}" for number in range(2000)]
    parts = split_by_subject(subjects, SHARES)
    assert len(parts["train"]) == pytest.approx(1000, abs=80)
    assert len(parts["validation"]) == pytest.approx(400, abs=60)
    assert split_by_subject(subjects, SHARES, "other") != parts


@pytest.mark.parametrize("shares", [{"a": 0.8, "b": 0.3}, {"a": -0.1}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="shares"):
        split_by_subject(["x"], shares)


def test_records_about_trained_subjects_are_dropped_however_they_are_written() -> None:
    records = cases(10)
    names = [records[0].request.subject.upper() + " ", records[4].request.subject]
    left, dropped = without_trained(records, {subject_digest(name) for name in names})
    assert dropped == 2
    assert [case.request.case_id for case in left] == ["1", "2", "3", "5", "6", "7", "8", "9"]

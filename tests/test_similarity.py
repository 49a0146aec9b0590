"""Near duplicates: a letter or a word apart, whichever comes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.similarity import any_near_duplicates, near_duplicates


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("fraking", "franking", True),
        ("Franking", "fRANKING", True),
        ("blaxploitation movie", "blaxploitation film", True),
        ("poem", "poet", False),
        ("traditional pop", "espionage novel", False),
        ("abcde", "abcdf", False),  # 2 * 4 / 10 is 0.8 and not above it
    ],
)
def test_what_is_near(one: str, other: str, expected: bool) -> None:
    assert near_duplicates(one, other) is expected


def test_an_order_on_which_difflib_depends_does_not_matter() -> None:
    # The ratio is 0.778 in one order and 0.806 in the other.
    one, other = "Billboard Music Award for Best Song", "Billboard Music Award for Rising Star"
    assert near_duplicates(one, other) == near_duplicates(other, one)


@given(one=st.text(max_size=12), other=st.text(max_size=12))
def test_nearness_is_mutual_and_reflexive(one: str, other: str) -> None:
    assert near_duplicates(one, other) == near_duplicates(other, one)
    assert near_duplicates(one, one.casefold())


def test_one_near_pair_is_enough() -> None:
    assert any_near_duplicates(["data migration", "fraking", "franking"])
    assert not any_near_duplicates(["data migration", "fraking", "Rome"])
    assert not any_near_duplicates(["Rome"])

"""How records are cut into shares and rounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.apps.session import seen, shares, slot


@given(records=st.integers(0, 30), rounds=st.integers(1, 7))
def test_slots_cover_all_records_once_and_differ_by_one_at_most(records: int, rounds: int) -> None:
    cases: Any = list(range(records))
    slots = [slot(cases, rounds, number) for number in range(1, rounds + 1)]
    assert [case for part in slots for case in part] == cases
    assert max(map(len, slots)) - min(map(len, slots)) <= 1


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=7), edits=st.integers(1, 100))
def test_shares_add_up_to_the_edits_asked_for(sizes: list[int], edits: int) -> None:
    cut = shares(sizes, edits)
    assert sum(cut) == min(edits, sum(sizes))
    assert all(0 <= part <= size for part, size in zip(cut, sizes, strict=True))


def test_equal_clients_take_equal_shares_the_first_the_rest() -> None:
    assert shares([10, 10, 10, 10], 6) == [2, 2, 1, 1]


def test_zero_edits_means_all_records() -> None:
    assert shares([1, 2, 3], 0) == [1, 2, 3]


@pytest.mark.parametrize(("number", "expected"), [(1, [0, 1, 2]), (2, [0, 1, 2, 3, 4])])
def test_seen_are_the_records_of_all_rounds_so_far(number: int, expected: list[int]) -> None:
    cases: Any = list(range(5))
    assert seen(cases, 2, number) == expected

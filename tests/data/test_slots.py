"""A client's records are ordered, then dealt out over the rounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.data.slots import arrange, seen, slot
from fleke_flwr.types import EditRequest, EvalCase


def cases_of(count: int) -> list[EvalCase]:
    return [
        EvalCase(EditRequest(str(index), "{} is", f"Subject {index}", "x"))
        for index in range(count)
    ]


def numbers(cases: list[EvalCase]) -> list[int]:
    return [int(case.request.case_id) for case in cases]


@given(records=st.integers(0, 30), rounds=st.integers(1, 7))
def test_slots_cover_all_records_once_and_differ_by_one_at_most(records: int, rounds: int) -> None:
    cases = cases_of(records)
    slots = [slot(cases, rounds, number) for number in range(1, rounds + 1)]
    assert [case for part in slots for case in part] == cases
    sizes = [len(part) for part in slots]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("number", "expected"), [(1, [0, 1, 2]), (2, [0, 1, 2, 3, 4])])
def test_seen_are_the_records_of_all_rounds_so_far(number: int, expected: list[int]) -> None:
    assert numbers(seen(cases_of(5), 2, number)) == expected


def test_file_and_lexicographic_order() -> None:
    cases = cases_of(12)
    assert arrange(cases, "file", 0, 0) == cases
    text_order = [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert numbers(arrange(cases, "lexicographic", 0, 0)) == text_order


def test_the_seeded_order_differs_between_seeds_and_clients_and_comes_again() -> None:
    cases = cases_of(20)
    orders = [
        numbers(arrange(cases, "seeded", seed, client)) for seed in (0, 1) for client in (0, 1)
    ]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({str(order) for order in orders}) == 4
    assert numbers(arrange(cases, "seeded", 0, 0)) == orders[0]
    assert numbers(cases) == list(range(20))

"""A client's records are ordered, then dealt out over the rounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.data.slots import arrange, deal, first_of
from fleke_flwr.errors import ConfigError
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
    slots = deal(cases, rounds)
    assert len(slots) == rounds
    assert [case for part in slots for case in part] == cases
    sizes = [len(part) for part in slots]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


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


@given(records=st.integers(0, 30), rounds=st.integers(1, 7), first=st.integers(1, 40))
def test_the_first_round_takes_its_number_and_the_others_share_the_rest(
    records: int, rounds: int, first: int
) -> None:
    cases = cases_of(records)
    dealt = deal(cases, rounds, first)
    assert len(dealt) == rounds
    assert [case for part in dealt for case in part] == cases
    sizes = [len(part) for part in dealt]
    assert sizes[0] == (records if rounds == 1 else min(first, records))
    later = sizes[1:]
    assert later == sorted(later, reverse=True)
    assert not later or later[0] - later[-1] <= 1


def test_records_are_dealt_in_their_order() -> None:
    assert [numbers(part) for part in deal(cases_of(8), 3, 3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [numbers(part) for part in deal(cases_of(5), 2)] == [[0, 1, 2], [3, 4]]


@given(clients=st.integers(1, 9), more=st.integers(0, 40))
def test_the_first_records_are_shared_out_whole(clients: int, more: int) -> None:
    first = clients + more
    shares = [first_of(first, clients, client) for client in range(clients)]
    assert sum(shares) == first
    assert shares == sorted(shares, reverse=True)
    assert shares[0] - shares[-1] <= 1
    assert shares[-1] >= 1


def test_no_first_records_are_none_for_everybody_and_too_few_are_refused() -> None:
    assert [first_of(0, 3, client) for client in range(3)] == [0, 0, 0]
    for client in range(3):
        with pytest.raises(ConfigError, match=r"data\.first = 2 with 3 clients: every client"):
            first_of(2, 3, client)

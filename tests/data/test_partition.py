"""Every record goes to exactly one client."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleke_flwr.config import PARTITIONS
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.types import EditRequest, EvalCase


def cases_of(relations: list[str]) -> list[EvalCase]:
    return [
        EvalCase(EditRequest(str(index), "{} is", f"Subject {index}", "x", relation=relation))
        for index, relation in enumerate(relations)
    ]


def numbers(parts: list[list[EvalCase]]) -> list[list[int]]:
    return [[int(case.request.case_id) for case in part] for part in parts]


@given(
    name=st.sampled_from(PARTITIONS),
    relations=st.lists(st.sampled_from("abcde"), min_size=1, max_size=40),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_every_record_goes_to_one_client(
    name: str, relations: list[str], seed: int, data: st.DataObject
) -> None:
    clients = data.draw(st.integers(1, len(relations)))
    parts = numbers(partition_cases(cases_of(relations), name, clients, seed))
    assert len(parts) == clients
    assert Counter(index for part in parts for index in part) == Counter(range(len(relations)))


@pytest.mark.parametrize("name", ["iid", "contiguous"])
@pytest.mark.parametrize(
    ("records", "clients", "sizes"),
    [(10, 3, [4, 3, 3]), (10, 4, [3, 3, 2, 2]), (7, 7, [1] * 7), (400, 8, [50] * 8)],
)
def test_the_first_clients_take_the_remainder(
    name: str, records: int, clients: int, sizes: list[int]
) -> None:
    parts = partition_cases(cases_of(["a"] * records), name, clients, 0)
    assert [len(part) for part in parts] == sizes


def test_contiguous_keeps_the_order_of_the_file() -> None:
    parts = partition_cases(cases_of(["a"] * 10), "contiguous", 4, 0)
    assert numbers(parts) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]


def test_iid_depends_on_the_seed_alone() -> None:
    cases = cases_of(["a"] * 30)
    first = numbers(partition_cases(cases, "iid", 3, seed=5))
    assert numbers(partition_cases(cases, "iid", 3, seed=5)) == first
    assert numbers(partition_cases(cases, "iid", 3, seed=6)) != first
    other_content = cases_of([f"r{index}" for index in range(30)])
    assert numbers(partition_cases(other_content, "iid", 3, seed=5)) == first
    assert [index for part in first for index in part] != list(range(30))


@pytest.mark.parametrize("name", ["contiguous", "relation"])
def test_the_others_do_not_depend_on_the_seed(name: str) -> None:
    cases = cases_of(list("abcab" * 4))
    parts = {str(numbers(partition_cases(cases, name, 3, seed))) for seed in range(4)}
    assert len(parts) == 1


def test_relations_stay_whole_and_loads_are_level() -> None:
    relations = ["a"] * 6 + ["b"] * 3 + ["c"] * 2 + ["d"]
    parts = partition_cases(cases_of(relations), "relation", 3, 0)
    held = [{case.request.relation for case in part} for part in parts]
    assert held == [{"a"}, {"b"}, {"c", "d"}]


def test_more_clients_than_relations_leave_some_empty() -> None:
    parts = partition_cases(cases_of(["a", "a", "b", "b"]), "relation", 3, 0)
    assert [len(part) for part in parts] == [2, 2, 0]


@pytest.mark.parametrize("name", PARTITIONS)
def test_more_clients_than_records_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="3 clients and 2 records: every client needs one"):
        partition_cases(cases_of(["a", "b"]), name, 3, 0)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown data\.partition 'relations'.*'relation'"):
        partition_cases(cases_of(["a"]), "relations", 1, 0)

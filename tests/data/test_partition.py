"""Records go to clients as every partition promises."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from flwr_datasets.partitioner import NaturalIdPartitioner
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fleke_flwr.config import PARTITIONS, DataConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.types import EditRequest, EvalCase

# Those that any records allow, as long as every client can have one.
FREE = ("iid", "contiguous", "round_robin", "relation", "cluster")


def cases_of(relations: list[str], owners: list[str] | None = None) -> list[EvalCase]:
    return [
        EvalCase(
            EditRequest(str(index), "{} is", f"Subject {index}", "x", relation=relation),
            owner=owners[index] if owners else "",
        )
        for index, relation in enumerate(relations)
    ]


def split(
    cases: list[EvalCase], name: str, clients: int, seed: int = 0, **options: Any
) -> list[list[int]]:
    data = DataConfig(partition=name, **options)
    parts = partition_cases(cases, data, clients, seed)
    return [[int(case.request.case_id) for case in part] for part in parts]


def sizes_of(parts: list[list[int]]) -> list[int]:
    return [len(part) for part in parts]


def relations_of(parts: list[list[int]], relations: list[str]) -> list[set[str]]:
    return [{relations[index] for index in part} for part in parts]


@given(
    name=st.sampled_from(FREE),
    relations=st.lists(st.sampled_from("abcde"), min_size=1, max_size=40),
    mix=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_every_record_goes_to_one_client_in_file_order(
    name: str, relations: list[str], mix: float, seed: int, data: st.DataObject
) -> None:
    clients = data.draw(st.integers(1, len(relations)))
    edits = data.draw(st.integers(clients, len(relations)))
    parts = split(cases_of(relations), name, clients, seed, edits=edits, mix=mix)
    assert len(parts) == clients
    assert Counter(index for part in parts for index in part) == Counter(range(edits))
    assert all(part == sorted(part) for part in parts)
    assert parts == split(cases_of(relations), name, clients, seed, edits=edits, mix=mix)


@given(
    counts=st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 15), min_size=1),
    mix=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_one_relation_takes_the_largest_and_trims_them_in_proportion(
    counts: dict[str, int], mix: float, seed: int, data: st.DataObject
) -> None:
    relations = [name for name, count in counts.items() for _ in range(count)]
    clients = data.draw(st.integers(1, len(counts)))
    chosen = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:clients]
    held = sum(count for _, count in chosen)
    # No client is left without where even the smallest relation's exact share is 1.
    edits = data.draw(st.integers(min(held, -(-held // chosen[-1][1])), held))
    parts = split(
        cases_of(relations), "one_relation", clients, seed, edits=max(edits, clients), mix=mix
    )
    rows = [index for part in parts for index in part]
    assert len(rows) == len(set(rows)) == max(edits, clients)
    for (name, count), part in zip(chosen, parts, strict=True):
        assert abs(len(part) - count * len(rows) / held) < 1
        own = [index for index in part if relations[index] == name]
        assert len(part) - len(own) <= round(mix * len(part))
        if not mix:
            assert (
                own
                == [index for index in range(len(relations)) if relations[index] == name][
                    : len(part)
                ]
            )


@pytest.mark.parametrize("name", ["iid", "contiguous", "round_robin", "cluster"])
@pytest.mark.parametrize(
    ("records", "clients", "sizes"),
    [(10, 3, [4, 3, 3]), (10, 4, [3, 3, 2, 2]), (7, 7, [1] * 7), (400, 8, [50] * 8)],
)
def test_sizes_differ_by_one_at_most(
    name: str, records: int, clients: int, sizes: list[int]
) -> None:
    found = sizes_of(split(cases_of(["a"] * records), name, clients))
    assert (sorted(found, reverse=True) if name == "cluster" else found) == sizes


def test_contiguous_and_round_robin_go_by_the_order_of_the_file() -> None:
    cases = cases_of(["a"] * 10)
    assert split(cases, "contiguous", 4) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert split(cases, "round_robin", 4) == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]


def test_iid_depends_on_the_seed_alone() -> None:
    cases = cases_of(["a"] * 30)
    first = split(cases, "iid", 3, seed=5)
    assert split(cases, "iid", 3, seed=5) == first
    assert split(cases, "iid", 3, seed=6) != first
    assert split(cases_of([f"r{index}" for index in range(30)]), "iid", 3, seed=5) == first
    assert [index for part in first for index in part] != list(range(30))


@pytest.mark.parametrize(
    "name", ["contiguous", "round_robin", "relation", "one_relation", "natural"]
)
def test_the_others_do_not_depend_on_the_seed(name: str) -> None:
    cases = cases_of(list("abcab" * 4), owners=list("xyzzy" * 4))
    parts = {str(split(cases, name, 3, seed)) for seed in range(4)}
    assert len(parts) == 1


def test_relations_stay_whole_and_loads_are_level() -> None:
    relations = ["a"] * 6 + ["b"] * 3 + ["c"] * 2 + ["d"]
    parts = split(cases_of(relations), "relation", 3)
    assert relations_of(parts, relations) == [{"a"}, {"b"}, {"c", "d"}]


def test_more_clients_than_relations_leave_some_empty() -> None:
    parts = split(cases_of(["a", "a", "b", "b"]), "relation", 3)
    assert sizes_of(parts) == [2, 2, 0]


@pytest.mark.parametrize("name", ["relation", "one_relation"])
def test_a_copied_record_is_held_by_two(name: str) -> None:
    relations = ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    parts = split(cases_of(relations), name, 3, mix=0.1, mix_mode="copy")
    assert sizes_of(parts) == [20, 20, 20]
    held = Counter(index for part in parts for index in part)
    assert max(held.values()) > 1
    for part, own in zip(parts, "abc", strict=True):
        assert sum(relations[index] != own for index in part) == 2


def test_one_relation_chooses_among_all_records_and_leaves_out_the_rest() -> None:
    relations = ["a"] * 2 + ["b"] * 6 + ["c"] * 3 + [""] * 9
    parts = split(cases_of(relations), "one_relation", 2, edits=3)
    assert parts == [[2, 3], [8]]
    assert sizes_of(split(cases_of(relations), "one_relation", 2)) == [6, 3]


def test_one_relation_needs_as_many_relations_as_clients() -> None:
    message = "a relation for each of 3 clients and the records have 2; lower clients"
    with pytest.raises(DataError, match=message):
        split(cases_of(["a", "b", "", "", "a"]), "one_relation", 3)


def test_one_relation_refuses_a_total_that_leaves_a_client_empty() -> None:
    message = "data.edits = 2 leaves no record of relation 'b' to its client"
    with pytest.raises(DataError, match=message):
        split(cases_of(["a"] * 50 + ["b"]), "one_relation", 2, edits=2)


@given(
    relations=st.lists(st.sampled_from("abcdef"), min_size=30, max_size=80),
    clients=st.integers(1, 5),
    concentration=st.sampled_from([0.1, 0.5, 5.0]),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=40, deadline=None)
def test_dirichlet_gives_every_record_once_and_everybody_some(
    relations: list[str], clients: int, concentration: float, seed: int
) -> None:
    options = {"concentration": concentration}
    try:
        parts = split(cases_of(relations), "dirichlet", clients, seed, **options)
    except DataError:
        reject()  # legal, and tested below
    assert Counter(index for part in parts for index in part) == Counter(range(len(relations)))
    assert all(parts)
    assert parts == split(cases_of(relations), "dirichlet", clients, seed, **options)


def test_a_small_concentration_gives_every_client_few_relations() -> None:
    relations = list("abcdefgh" * 40)

    def spread(concentration: float) -> float:
        parts = split(cases_of(relations), "dirichlet", 8, seed=1, concentration=concentration)
        return sum(len(held) for held in relations_of(parts, relations)) / 8

    assert spread(0.05) < 4 < 7 < spread(100.0)


@pytest.mark.parametrize("concentration", [1e-4, 0.01])
def test_dirichlet_says_in_words_that_it_cannot(concentration: float) -> None:
    message = (
        f"data.concentration = {concentration}: no draw gave each of 6 clients one of the "
        "20 records; raise data.concentration or lower clients"
    )
    with pytest.raises(DataError, match=message):
        split(cases_of(["a"] * 20), "dirichlet", 6, concentration=concentration)


def test_natural_makes_a_client_of_each_owner_in_order_of_appearance() -> None:
    owners = ["west", "east", "west", "10", "9", "east"]
    parts = split(cases_of(["a"] * 6, owners), "natural", 4)
    assert parts == [[0, 2], [1, 5], [3], [4]]
    library = NaturalIdPartitioner("owner")
    library.dataset = Dataset.from_dict({"index": range(6), "owner": owners})
    theirs = [list(library.load_partition(client)["index"]) for client in range(4)]
    assert sorted(theirs) == sorted(parts)


@pytest.mark.parametrize("clients", [1, 3])
def test_natural_needs_as_many_clients_as_owners(clients: int) -> None:
    message = f"the records have 2 owners and clients = {clients}; set clients = 2"
    with pytest.raises(DataError, match=message):
        split(cases_of(["a"] * 4, list("xyxy")), "natural", clients)


def test_natural_names_the_record_without_an_owner() -> None:
    message = r"record '1' \('Subject 1 is'\) has no field 'site', which data.owner names"
    with pytest.raises(DataError, match=message):
        split(cases_of(["a"] * 3, ["x", "", "y"]), "natural", 2, owner="site")


@pytest.mark.parametrize("name", ["relation", "one_relation", "dirichlet"])
def test_records_without_relations_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}': no record has a relation; .* cluster"):
        split(cases_of(["", "", ""]), name, 2)


@pytest.mark.parametrize("name", PARTITIONS)
def test_more_clients_than_records_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="3 clients and 2 records: every client needs one"):
        split(cases_of(["a", "b", "c", "d"], list("wxyz")), name, 3, edits=2)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown data\.partition 'relations'.*'relation'"):
        split(cases_of(["a"]), "relations", 1)


def test_real_questions_are_clustered_in_seconds(shared_data: Path) -> None:
    data = DataConfig(path=str(shared_data / "zsre" / "zsre_eval.dev.jsonl"), partition="cluster")
    cases = list(load_cases(data).cases)
    start = time.perf_counter()
    parts = partition_cases(cases, data, 8, 0)
    assert time.perf_counter() - start < 20
    assert sorted(len(part) for part in parts) == [67] * 7 + [68]
    # Questions that ask the same of several subjects belong together.
    years = [sum("What year" in case.request.text for case in part) for part in parts]
    assert max(years) > 2 * sum(years) / len(years)


@pytest.mark.slow
def test_clusters_are_the_same_in_every_process(tmp_path: Path, shared_data: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text(
        "import sys\n"
        "from fleke_flwr.config import DataConfig\n"
        "from fleke_flwr.data.benchmarks import load_cases\n"
        "from fleke_flwr.data.partition import partition_cases\n"
        "data = DataConfig(path=sys.argv[1], partition='cluster')\n"
        "parts = partition_cases(load_cases(data).cases, data, 8, 0)\n"
        "print([[case.request.case_id for case in part] for part in parts])\n",
        encoding="utf-8",
    )
    path = str(shared_data / "zsre" / "zsre_train.dev.jsonl")
    found = {
        subprocess.run(
            [sys.executable, str(script), path],
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


def test_real_relations_go_to_a_client_each_with_a_tenth_from_the_others(shared_data: Path) -> None:
    data = DataConfig(
        path=str(shared_data / "counterfact" / "counterfact_native.dev.jsonl"),
        partition="one_relation",
        mix=0.1,
        edits=100,
    )
    cases = load_cases(data).cases
    parts = partition_cases(cases, data, 8, 0)
    assert sum(len(part) for part in parts) == 100
    for part in parts:
        counts = Counter(case.request.relation for case in part)
        (_, own), *others = counts.most_common()
        assert sum(count for _, count in others) == len(part) - own == round(0.1 * len(part))

"""Clients exchange or copy a share of their records; sizes stay, nothing comes twice."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.data.mixing import Mix, copied, moved

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=6)
SHARES = st.floats(0, 0.99)


def parts_of(sizes: list[int]) -> list[list[int]]:
    """Return consecutive rows, so that an owner can be told from a row."""
    starts = [sum(sizes[:client]) for client in range(len(sizes))]
    return [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]


def foreign(before: list[list[int]], after: list[list[int]]) -> list[int]:
    return [len(set(new) - set(old)) for old, new in zip(before, after, strict=True)]


@given(sizes=SIZES, share=SHARES, mode=st.sampled_from(["move", "copy"]), seed=st.integers(0))
def test_sizes_stay_and_the_seed_decides(
    sizes: list[int], share: float, mode: str, seed: int
) -> None:
    parts = parts_of(sizes)
    mixed = Mix(share, mode, seed).applied(parts)
    assert [len(part) for part in mixed] == sizes
    assert all(len(set(part)) == len(part) for part in mixed)
    assert mixed == Mix(share, mode, seed).applied(parts)
    assert parts == parts_of(sizes)
    assert all(part == sorted(part) for part in mixed)


@given(sizes=SIZES, share=SHARES, seed=st.integers(0))
def test_moving_keeps_every_row_once_and_gives_nobody_its_own_back(
    sizes: list[int], share: float, seed: int
) -> None:
    parts = parts_of(sizes)
    mixed = Mix(share, "move", seed).applied(parts)
    assert Counter(row for part in mixed for row in part) == Counter(range(sum(sizes)))
    wanted = [round(share * size) for size in sizes]
    reachable = [min(count, sum(wanted) - count) for count in wanted]
    assert foreign(parts, mixed) == reachable


@given(sizes=SIZES, share=SHARES, seed=st.integers(0))
def test_copies_come_from_others_and_owners_keep_them_where_they_can(
    sizes: list[int], share: float, seed: int
) -> None:
    parts = parts_of(sizes)
    mixed = Mix(share, "copy", seed).applied(parts)
    wanted = [min(round(share * size), sum(sizes) - size) for size in sizes]
    assert foreign(parts, mixed) == wanted
    copies = {row for old, new in zip(parts, mixed, strict=True) for row in set(new) - set(old)}
    for old, new, count in zip(parts, mixed, wanted, strict=True):
        lent = copies & set(old)
        assert len(lent - set(new)) == max(0, count - (len(old) - len(lent)))


@pytest.mark.parametrize("mode", ["move", "copy"])
def test_no_share_changes_nothing(mode: str) -> None:
    parts = parts_of([5, 3, 4])
    assert Mix(0.0, mode, 3).applied(parts) == parts


@pytest.mark.parametrize("mode", ["move", "copy"])
def test_another_seed_mixes_otherwise(mode: str) -> None:
    parts = parts_of([20, 20, 20])
    assert Mix(0.3, mode, 0).applied(parts) != Mix(0.3, mode, 1).applied(parts)


@pytest.mark.parametrize("exchange", [moved, copied])
def test_every_other_client_is_as_likely_a_source(exchange) -> None:  # type: ignore[no-untyped-def]
    parts = parts_of([10, 10, 10, 10])
    sources: Counter[int] = Counter()
    draws = 400
    for seed in range(draws):
        mixed = exchange(parts, [3, 3, 3, 3], random.Random(seed))
        sources.update(row // 10 for row in set(mixed[0]) - set(parts[0]))
    assert sources[0] == 0
    for client in (1, 2, 3):
        assert sources[client] == pytest.approx(draws, rel=0.1)


def test_all_rows_are_as_likely_to_leave() -> None:
    parts = parts_of([10, 10])
    left: Counter[int] = Counter()
    for seed in range(500):
        mixed = moved(parts, [2, 2], random.Random(seed))
        left.update(set(parts[0]) - set(mixed[0]))
    assert all(left[row] == pytest.approx(100, rel=0.35) for row in parts[0])

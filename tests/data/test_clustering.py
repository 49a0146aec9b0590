"""Vectors that point the same way are grouped, and sizes can be evened out."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import normalize

from fleke_flwr.data import clustering
from fleke_flwr.data.clustering import affinity, cluster, evened
from fleke_flwr.data.encoders import Vectors


def around(axes: list[int], spread: float = 0.2, seed: int = 0) -> Vectors:
    """Return unit vectors near coordinate axes."""
    noise = np.random.default_rng(seed).normal(scale=spread, size=(len(axes), 6))
    vectors: Vectors = normalize(np.eye(6)[axes] + noise)
    return vectors


def groups(labels: list[int]) -> set[frozenset[int]]:
    return {
        frozenset(row for row, label in enumerate(labels) if label == wanted)
        for wanted in set(labels)
    }


@pytest.mark.parametrize("limit", [3000, 10])
def test_groups_are_found_dense_and_by_nearest_neighbours(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "DENSE_LIMIT", limit)
    axes = [0] * 30 + [1] * 50 + [2] * 40
    labels = cluster(around(axes), 3, balance=False, seed=0)
    assert groups(labels) == groups(axes)


def test_groups_that_share_nothing_are_found() -> None:
    axes = [0, 1, 2] * 20
    assert groups(cluster(around(axes, spread=0.0), 3, balance=False, seed=0)) == groups(axes)


def test_the_affinity_is_symmetric_and_has_no_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4))
    vectors = normalize(vectors)
    dense = affinity(vectors)
    monkeypatch.setattr(clustering, "DENSE_LIMIT", 10)
    sparse = affinity(vectors).toarray()
    for matrix in (dense, sparse):
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
        assert matrix.min() >= 0
    np.testing.assert_allclose(dense, np.maximum(vectors @ vectors.T, 0))
    mutual = sparse[0] > 0.9 * dense[0]
    np.testing.assert_allclose(sparse[0][mutual], dense[0][mutual], atol=1e-12)
    assert 0 < (sparse > 0).sum() < (dense > 0).sum()


def test_the_largest_clusters_give_and_the_nearest_with_room_take() -> None:
    # Rows 3 and 4 lean from axis 0 towards axes 1 and 2.
    vectors = normalize(
        np.array([[1, 0, 0], [1, 0, 0], [1, 0.1, 0], [1, 0.8, 0], [1, 0, 0.9], [0, 1, 0]], float)
    )
    vectors = np.vstack([vectors, [[0.0, 0.0, 1.0]]])
    labels = np.array([0, 0, 0, 0, 0, 1, 2])
    assert evened(vectors, labels, 3).tolist() == [0, 0, 0, 1, 2, 1, 2]


@given(
    labels=st.lists(st.integers(0, 4), min_size=5, max_size=60),
    seed=st.integers(0, 100),
)
@settings(max_examples=50, deadline=None)
def test_evened_sizes_differ_by_one_and_small_clusters_stay_whole(
    labels: list[int], seed: int
) -> None:
    before = np.array(labels)
    vectors = normalize(np.random.default_rng(seed).normal(size=(len(labels), 3)))
    after = evened(vectors, before, 5)
    sizes = np.bincount(after, minlength=5)
    assert sizes.max() <= ceil(len(labels) / 5)
    assert sizes.max() - sizes.min() <= 1
    for label in range(5):
        rows = np.flatnonzero(before == label)
        if len(rows) <= len(labels) // 5:
            assert (after[rows] == label).all()


@pytest.mark.parametrize(("clusters", "expected"), [(1, [0] * 5), (5, [0, 1, 2, 3, 4])])
def test_one_cluster_and_a_cluster_each_need_no_search(clusters: int, expected: list[int]) -> None:
    assert cluster(around([0] * 5), clusters, balance=True, seed=0) == expected

"""Group vectors by their cosines: spectral clustering, and clusters of even sizes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import SpectralClustering
from sklearn.neighbors import kneighbors_graph
from sklearn.preprocessing import normalize

from fleke_flwr.data.encoders import Vectors

Labels = NDArray[np.int64]
DENSE_LIMIT = 3000
NEIGHBORS = 20


def cluster(vectors: Vectors, clusters: int, balance: bool, seed: int) -> list[int]:
    """Return the cluster of every vector.

    As FedLEKE's released code for zsRE (``zsre_preprocess_for_client.py``) with two departures:
    negative cosines count as 0, since an affinity has no sign, and sizes may be evened out.

    Parameters
    ----------
    vectors : Vectors
        ``(n, d)``, rows of length 1 or zero; ``n`` is at least ``clusters``.
    clusters : int
        Number of clusters.
    balance : bool
        Whether sizes are evened out, see :func:`evened`.
    seed : int
        Seed of the clustering.
    """
    if clusters in (1, len(vectors)):
        return [row % clusters for row in range(len(vectors))]
    spectral = SpectralClustering(clusters, affinity="precomputed", random_state=seed)
    with warnings.catch_warnings():
        # Parts that share nothing are found as clusters, which is what is wanted.
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        labels: Labels = spectral.fit(affinity(vectors)).labels_.astype(np.int64)
    found: list[int] = (evened(vectors, labels, clusters) if balance else labels).tolist()
    return found


def affinity(vectors: Vectors) -> Any:
    """Return the cosines, clipped at 0: an array ``(n, n)``, or a sparse one for many vectors.

    Beyond ``DENSE_LIMIT`` vectors each keeps its ``NEIGHBORS`` nearest only.
    """
    if len(vectors) <= DENSE_LIMIT:
        return np.clip(vectors @ vectors.T, 0.0, None)
    graph = kneighbors_graph(vectors, NEIGHBORS, mode="distance", metric="cosine")
    graph.data = np.clip(1.0 - graph.data, 0.0, None)
    return (graph + graph.T) / 2


def evened(vectors: Vectors, labels: Labels, clusters: int) -> Labels:
    """Move vectors until sizes differ by one at most.

    The clusters that are largest keep the remainder. From one that is too large the vectors go
    that are farthest from its centroid, the best fitting first, each to the nearest centroid of
    a cluster with room.

    Parameters
    ----------
    vectors : Vectors
        ``(n, d)``.
    labels : Labels
        ``(n,)``: clusters before.
    clusters : int
        Number of clusters.

    Returns
    -------
    Labels
        ``(n,)``: clusters after.
    """
    members = np.eye(clusters)[labels]
    similarity = vectors @ normalize(members.T @ vectors).T
    base, rest = divmod(len(vectors), clusters)
    room = np.full(clusters, base)
    room[np.argsort(-members.sum(axis=0), kind="stable")[:rest]] += 1
    result = np.full(len(vectors), -1)
    for label in range(clusters):
        rows = np.flatnonzero(labels == label)
        nearest = rows[np.argsort(-similarity[rows, label], kind="stable")][: room[label]]
        result[nearest] = label
        room[label] -= len(nearest)
    moving = np.flatnonzero(result < 0)
    fits = similarity[moving]
    for place in np.argsort(-fits, axis=None, kind="stable"):
        mover, label = divmod(int(place), clusters)
        if room[label] and result[moving[mover]] < 0:
            result[moving[mover]] = label
            room[label] -= 1
    return result

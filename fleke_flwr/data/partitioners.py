"""Partitioners of flwr-datasets that go by the owner, relation or meaning of a record.

Each works on a dataset with a row per record, whose columns its docstring names, and does its work
when the first partition is asked for, as the library's own do.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, Partitioner
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fleke_flwr.data.mixing import Mix
from fleke_flwr.errors import DataError


class RowsPartitioner(Partitioner):  # type: ignore[misc]  # untyped in flwr-datasets
    """Base of the partitioners that list the rows of every client at once.

    Parameters
    ----------
    num_partitions : int
        Number of clients.
    """

    def __init__(self, num_partitions: int) -> None:
        super().__init__()
        self._num_partitions = num_partitions
        self._parts: list[list[int]] = []

    @abstractmethod
    def assign(self) -> list[list[int]]:
        """List the rows of every client; a row may be held by several or by none."""

    def load_partition(self, partition_id: int) -> Dataset:
        """Return the rows of one client."""
        if not self._parts:
            self._parts = self.assign()
        return self.dataset.select(self._parts[partition_id])

    @property
    def num_partitions(self) -> int:
        """Number of clients."""
        return self._num_partitions

    def gathered(self, owners: Sequence[int]) -> list[list[int]]:
        """List every client's rows, given the client of every row."""
        parts: list[list[int]] = [[] for _ in range(self._num_partitions)]
        for row, owner in enumerate(owners):
            parts[owner].append(row)
        return parts


class RoundRobinPartitioner(IidPartitioner):  # type: ignore[misc]  # untyped in flwr-datasets
    """Deal the rows out in turn, where its parent gives contiguous parts."""

    def load_partition(self, partition_id: int) -> Dataset:
        """Return every n-th row."""
        return self.dataset.shard(self.num_partitions, partition_id, contiguous=False)


class RelationPartitioner(RowsPartitioner):
    """Give every ``relation`` to one client, the largest first to the one that holds least.

    Parameters
    ----------
    num_partitions : int
        Number of clients; those beyond the number of relations stay empty.
    mix : Mix
        Which share of the records changes hands afterwards.
    """

    def __init__(self, num_partitions: int, mix: Mix) -> None:
        super().__init__(num_partitions)
        self._mix = mix

    def assign(self) -> list[list[int]]:
        """Level the clients' loads, then mix."""
        relations = list(self.dataset["relation"])
        loads = [0] * self._num_partitions
        owner: dict[str, int] = {}
        for relation, size in by_size(relations):
            owner[relation] = loads.index(min(loads))
            loads[owner[relation]] += size
        return self._mix.applied(self.gathered([owner[relation] for relation in relations]))


class OneRelationPartitioner(RowsPartitioner):
    """Give each client one of the largest values of ``relation``, and mix: FedLEKE's CounterFact.

    FedLEKE (arXiv 2502.15677): a relation per client, about a tenth of each client's records drawn
    from the others. The released code takes relations of more than 800 records in file order and
    mixes nothing; here the largest are taken, and records of other relations go to nobody.

    Parameters
    ----------
    num_partitions : int
        Number of clients.
    total : int
        Most records in total, 0 for all; the relations are trimmed in proportion to their sizes,
        each from its end.
    mix : Mix
        Which share of the records changes hands afterwards.
    """

    def __init__(self, num_partitions: int, total: int, mix: Mix) -> None:
        super().__init__(num_partitions)
        self._total = total
        self._mix = mix

    def assign(self) -> list[list[int]]:
        """Choose, trim, mix.

        Raises
        ------
        DataError
            If there are fewer relations than clients, or trimming leaves a client without records.
        """
        relations = list(self.dataset["relation"])
        ranked = [relation for relation, _ in by_size(relations) if relation]
        if len(ranked) < self._num_partitions:
            raise DataError(
                f"data.partition = 'one_relation' needs a relation for each of "
                f"{self._num_partitions} clients and the records have {len(ranked)}; "
                "lower clients, or choose another partition"
            )
        places = {name: place for place, name in enumerate(ranked[: self._num_partitions])}
        parts: list[list[int]] = [[] for _ in places]
        for row, relation in enumerate(relations):
            if relation in places:
                parts[places[relation]].append(row)
        kept = self._quotas([len(part) for part in parts])
        if not all(kept):
            raise DataError(
                f"data.edits = {self._total} leaves no record of relation "
                f"{ranked[kept.index(0)]!r} to its client; raise data.edits or lower clients"
            )
        return self._mix.applied([part[:size] for part, size in zip(parts, kept, strict=True)])

    def _quotas(self, sizes: Sequence[int]) -> list[int]:
        held = sum(sizes)
        if not 0 < self._total < held:
            return list(sizes)
        quotas, remainders = zip(*(divmod(size * self._total, held) for size in sizes), strict=True)
        missing = self._total - sum(quotas)
        largest = sorted(range(len(sizes)), key=lambda client: (-remainders[client], client))
        return [quota + (client in largest[:missing]) for client, quota in enumerate(quotas)]


class ShareOfRelationsPartitioner(DirichletPartitioner):  # type: ignore[misc]  # as above
    """Spread every ``relation`` by shares drawn from a Dirichlet distribution; nobody stays empty.

    The library's partitioner, with its balancing (a client above the average gets no more), which
    is that of Yurochkin et al. 2019 (arXiv 1905.12022), and with an error in words where its draws
    do not come out.

    Parameters
    ----------
    num_partitions : int
        Number of clients.
    concentration : float
        Small numbers give every client few relations.
    seed : int
        Seed of the draws.
    """

    def __init__(self, num_partitions: int, concentration: float, seed: int) -> None:
        super().__init__(
            num_partitions,
            partition_by="relation",
            alpha=concentration,
            min_partition_size=1,
            self_balancing=True,
            shuffle=False,
            seed=seed,
        )
        self._concentration = concentration

    def load_partition(self, partition_id: int) -> Dataset:
        """Return the rows of one client.

        Raises
        ------
        DataError
            If no draw gave every client a record.
        """
        try:
            # Shares that all underflow to 0 would be divided by 0 and go on as NaN.
            with np.errstate(invalid="raise", divide="raise"), warnings.catch_warnings():
                # One for every draw that is made again.
                warnings.filterwarnings("ignore", "The specified min_partition_size")
                return super().load_partition(partition_id)
        except (ValueError, FloatingPointError) as error:
            raise DataError(
                f"data.partition = 'dirichlet' with data.concentration = {self._concentration}: "
                f"no draw gave each of {self._num_partitions} clients one of the "
                f"{self.dataset.num_rows} records; raise data.concentration or lower clients"
            ) from error


class OwnerPartitioner(RowsPartitioner):
    """Give each value of ``owner`` to one client, in order of first appearance.

    The library's ``NaturalIdPartitioner`` orders owners by name and draws a progress bar.
    """

    def assign(self) -> list[list[int]]:
        """Count owners as clients.

        Raises
        ------
        DataError
            If there are not as many owners as clients.
        """
        owners = list(self.dataset["owner"])
        clients = {owner: client for client, owner in enumerate(dict.fromkeys(owners))}
        if len(clients) != self._num_partitions:
            raise DataError(
                f"data.partition = 'natural' makes a client of each owner: the records have "
                f"{len(clients)} owners and clients = {self._num_partitions}; "
                f"set clients = {len(clients)}"
            )
        return self.gathered([clients[owner] for owner in owners])


class ClusterPartitioner(RowsPartitioner):
    """Group rows by the meaning of ``text`` with spectral clustering: FedLEKE's zsRE.

    Parameters
    ----------
    num_partitions : int
        Number of clients.
    encoder : str
        See :func:`fleke_flwr.data.encoders.encode`.
    balance : bool
        Whether sizes are evened out.
    seed : int
        Seed of the encoder and the clustering.
    """

    def __init__(self, num_partitions: int, encoder: str, balance: bool, seed: int) -> None:
        super().__init__(num_partitions)
        self._encoder = encoder
        self._balance = balance
        self._seed = seed

    def assign(self) -> list[list[int]]:
        """Encode, cluster, even out."""
        # scikit-learn and transformers take seconds, and other partitions need neither.
        from fleke_flwr.data.clustering import cluster
        from fleke_flwr.data.encoders import encode

        texts = list(self.dataset["text"])
        # Sums in another order round otherwise, and every process of a run must find the same.
        with threadpool_limits(limits=1):
            vectors = encode(texts, self._encoder, self._seed)
            labels = cluster(vectors, self._num_partitions, self._balance, self._seed)
        return self.gathered(labels)


def by_size(relations: Sequence[str]) -> list[tuple[str, int]]:
    """Count relations, the largest first and equal ones by name."""
    return sorted(Counter(relations).items(), key=lambda item: (-item[1], item[0]))

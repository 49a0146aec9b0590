"""Spread records over clients with the partitioners of flwr-datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from datasets import Dataset
from flwr_datasets.partitioner import IidPartitioner, Partitioner

from fleke_flwr.config import DataConfig
from fleke_flwr.errors import DataError
from fleke_flwr.types import EvalCase


class GivenPartitioner(Partitioner):  # type: ignore[misc]  # untyped in flwr-datasets
    """Partition by the client number that a column holds.

    Parameters
    ----------
    num_partitions : int
        Number of clients; some may stay empty.
    column : str
        Column of client numbers.
    """

    def __init__(self, num_partitions: int, column: str) -> None:
        super().__init__()
        self._num_partitions = num_partitions
        self._column = column

    def load_partition(self, partition_id: int) -> Dataset:
        """Return the rows of one client, in order."""
        owners = self.dataset[self._column]
        return self.dataset.select([i for i, owner in enumerate(owners) if owner == partition_id])

    @property
    def num_partitions(self) -> int:
        """Number of clients."""
        return self._num_partitions


def partition_cases(
    cases: Sequence[EvalCase], data: DataConfig, num_partitions: int, seed: int
) -> list[list[EvalCase]]:
    """Spread records over clients.

    Parameters
    ----------
    cases : Sequence[EvalCase]
        All records.
    name : str
        ``iid`` (shuffled, then dealt out), ``contiguous`` (equal parts in file order; the first
        ones take the remainder) or ``relation`` (every relation goes to one client, the largest
        first to the client that holds least).
    num_partitions : int
        Number of clients.
    seed : int
        Seed of the shuffle.

    Raises
    ------
    ConfigError
        If the name is unknown.
    DataError
        If there are more clients than records.
    """
    name, cases = data.partition, cases[: data.edits] if data.edits else cases
    if len(cases) < num_partitions:
        raise DataError(
            f"{num_partitions} clients and {len(cases)} records: every client needs one; "
            "lower clients or give more records"
        )
    partitioner, rows = _partitioner(cases, name, num_partitions, seed)
    partitioner.dataset = rows
    return [
        [cases[index] for index in partitioner.load_partition(client)["index"]]
        for client in range(num_partitions)
    ]


def _partitioner(
    cases: Sequence[EvalCase], name: str, num_partitions: int, seed: int
) -> tuple[Partitioner, Dataset]:
    index = list(range(len(cases)))
    if name == "iid":
        rows = Dataset.from_dict({"index": index}).shuffle(seed=seed)
        return IidPartitioner(num_partitions), rows
    if name == "contiguous":
        base, rest = divmod(len(cases), num_partitions)
        sizes = [base + (client < rest) for client in range(num_partitions)]
        owners = [client for client, size in enumerate(sizes) for _ in range(size)]
    else:
        owners = _by_relation([case.request.relation for case in cases], num_partitions)
    rows = Dataset.from_dict({"index": index, "owner": owners})
    return GivenPartitioner(num_partitions, "owner"), rows


def _by_relation(relations: Sequence[str], num_partitions: int) -> list[int]:
    loads = [0] * num_partitions
    owner: dict[str, int] = {}
    for relation, size in sorted(Counter(relations).items(), key=lambda item: (-item[1], item[0])):
        owner[relation] = loads.index(min(loads))
        loads[owner[relation]] += size
    return [owner[relation] for relation in relations]

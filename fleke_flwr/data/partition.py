"""Spread records over clients with the partitioners of flwr-datasets."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset
from flwr_datasets.partitioner import IidPartitioner, Partitioner

from fleke_flwr.config import PARTITIONS, DataConfig
from fleke_flwr.data.mixing import Mix
from fleke_flwr.data.partitioners import (
    ClusterPartitioner,
    OneRelationPartitioner,
    OwnerPartitioner,
    RelationPartitioner,
    RoundRobinPartitioner,
    ShareOfRelationsPartitioner,
)
from fleke_flwr.errors import DataError
from fleke_flwr.types import EvalCase
from fleke_flwr.values import one_of

_BY_RELATION = ("relation", "one_relation", "dirichlet")


def partition_cases(
    cases: Sequence[EvalCase], data: DataConfig, num_partitions: int, seed: int
) -> list[list[EvalCase]]:
    """Spread records over clients as ``data.partition`` says, each client's in file order.

    ============ ===================================================================================
    iid          shuffled, then equal parts; the first clients take the remainder
    contiguous   equal parts in file order; the first clients take the remainder
    round_robin  dealt out in turn
    relation     every relation to one client, the largest first to the client that holds least
    one_relation the largest relations, one each; ``data.mix`` of the records change hands, as in
                 ``relation``
    dirichlet    every relation by shares drawn with ``data.concentration``; nobody stays empty
    cluster      by the meaning of the filled prompts; ``data.encoder``, ``data.balance``
    natural      an owner each (``data.owner``), in order of first appearance
    ============ ===================================================================================

    ``data.edits`` limits the total to the first records of the file; ``one_relation`` chooses its
    relations among all records and trims each in proportion.

    Parameters
    ----------
    cases : Sequence[EvalCase]
        All records.
    data : DataConfig
        Which partition, with its settings.
    num_partitions : int
        Number of clients.
    seed : int
        Seed of all that is drawn.

    Returns
    -------
    list[list[EvalCase]]
        By client. Every record goes to one client, except that ``one_relation`` leaves out other
        relations and the mix mode ``copy`` gives records to several.

    Raises
    ------
    ConfigError
        If the partition is unknown, or ``data.encoder`` cannot be loaded.
    DataError
        If there are more clients than records, or the records do not allow the partition.
    """
    one_of("data.partition", data.partition, PARTITIONS)
    limited = cases[: data.edits] if data.edits else cases
    if len(limited) < num_partitions:
        raise DataError(
            f"{num_partitions} clients and {len(limited)} records: every client needs one; "
            "lower clients or give more records"
        )
    chosen = cases if data.partition == "one_relation" else limited
    _check_columns(chosen, data)
    partitioner = _partitioner(data, num_partitions, seed)
    rows = _dataset(chosen)
    partitioner.dataset = rows.shuffle(seed=seed) if data.partition == "iid" else rows
    return [
        [chosen[index] for index in sorted(partitioner.load_partition(client)["index"])]
        for client in range(num_partitions)
    ]


def _partitioner(data: DataConfig, num_partitions: int, seed: int) -> Partitioner:
    mix = Mix(data.mix, data.mix_mode, seed)
    seed_of_libraries = seed % 2**32  # numpy's generators take no more
    match data.partition:
        case "round_robin":
            return RoundRobinPartitioner(num_partitions)
        case "relation":
            return RelationPartitioner(num_partitions, mix)
        case "one_relation":
            return OneRelationPartitioner(num_partitions, data.edits, mix)
        case "dirichlet":
            return ShareOfRelationsPartitioner(
                num_partitions, data.concentration, seed_of_libraries
            )
        case "cluster":
            return ClusterPartitioner(num_partitions, data.encoder, data.balance, seed_of_libraries)
        case "natural":
            return OwnerPartitioner(num_partitions)
        case _:
            return IidPartitioner(num_partitions)


def _dataset(cases: Sequence[EvalCase]) -> Dataset:
    return Dataset.from_dict(
        {
            "index": list(range(len(cases))),
            "relation": [case.request.relation for case in cases],
            "owner": [case.owner for case in cases],
            "text": [case.request.text for case in cases],
        }
    )


def _check_columns(cases: Sequence[EvalCase], data: DataConfig) -> None:
    if data.partition in _BY_RELATION and not any(case.request.relation for case in cases):
        raise DataError(
            f"data.partition = {data.partition!r}: no record has a relation; "
            "choose another partition, such as cluster"
        )
    if data.partition == "natural":
        for case in cases:
            if not case.owner:
                raise DataError(
                    f"data.partition = 'natural': record {case.request.case_id!r} "
                    f"({case.request.text!r}) has no field {data.owner!r}, which data.owner names"
                )

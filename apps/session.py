"""What a client holds while it answers one message: its model, its records, its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import EventFile, Progress, Silent
from fleke_flwr.types import EvalCase


@dataclass(frozen=True)
class Session:
    """A client's view of the run.

    Parameters
    ----------
    config : RunConfig
        The run's configuration, with this node's own model and data put in.
    model : EditableModel
        The base model, shared by all clients of this process.
    partition, num_partitions : int
        This client's number and how many there are.
    own_data : bool
        Whether the node brought its own data file (deployment) instead of a share of the run's.
    """

    config: RunConfig
    model: EditableModel
    partition: int
    num_partitions: int
    own_data: bool

    def cases(self, edits: int) -> list[EvalCase]:
        """Return this client's records, cut to its part of ``edits`` in total (0 for all)."""
        if self.own_data:
            return list(_own_cases(self.config.data.path))
        return self._cut_partitions(edits)[self.partition]

    def pooled_cases(self, edits: int, rounds: int, number: int) -> list[EvalCase]:
        """Return the records of all clients for one round, client after client.

        Raises
        ------
        ConfigError
            Outside a simulation, where no node may see another's records.
        """
        if self.own_data:
            raise ConfigError(
                "strategy 'global' pools the records of all clients and exists in simulation only; "
                "choose another strategy for a deployment"
            )
        return [
            case
            for records in self._cut_partitions(edits)
            for case in slot(records, rounds, number)
        ]

    def progress(self) -> Progress:
        """Return where to report progress: the run's event file if this machine has it."""
        directory = Path(self.config.output_dir) if self.config.output_dir else None
        if self.own_data or directory is None or not directory.is_dir():
            return Silent()
        return EventFile(directory / "events.jsonl")

    def _cut_partitions(self, edits: int) -> list[list[EvalCase]]:
        data = self.config.data
        limit = self.config.largest_edit_count
        parts = _partitioned(
            data.path, data.partition, limit, self.num_partitions, self.config.seed
        )
        sizes = shares([len(part) for part in parts], edits)
        return [list(part[:size]) for part, size in zip(parts, sizes, strict=True)]


def open_session(context: Context) -> Session:
    """Read a node's configuration and load its model, once per process.

    Raises
    ------
    ConfigError
        If the node has no partition, or a key is wrong.
    """
    config = RunConfig.from_flat(context.run_config)
    node = context.node_config
    for key in ("partition-id", "num-partitions"):
        if key not in node:
            raise ConfigError(
                f"this node has no {key}; start it with "
                "--node-config 'partition-id=0 num-partitions=2'"
            )
    if "model-path" in node:
        config = replace(config, model=replace(config.model, name=str(node["model-path"])))
    if "data-path" in node:
        config = replace(config, data=replace(config.data, path=str(node["data-path"])))
    return Session(
        config=config,
        model=load_model(config.model),
        partition=int(node["partition-id"]),
        num_partitions=int(node["num-partitions"]),
        own_data="data-path" in node,
    )


def shares(sizes: Sequence[int], edits: int) -> list[int]:
    """Return how many records each client edits so that all together edit ``edits`` (0 is all).

    Clients take part in proportion to what they hold; what is left after rounding down goes to
    those with the largest remainder, the first of them if equal.
    """
    total = sum(sizes)
    if edits == 0 or edits >= total:
        return list(sizes)
    cut = [edits * size // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(edits * sizes[i] % total), i))
    for index in order[: edits - sum(cut)]:
        cut[index] += 1
    return cut


def slot(records: list[EvalCase], rounds: int, number: int) -> list[EvalCase]:
    """Return the records of round ``number`` (from 1): a contiguous part, the rest going first."""
    base, rest = divmod(len(records), rounds)
    start = (number - 1) * base + min(number - 1, rest)
    return records[start : start + base + (number <= rest)]


def seen(records: list[EvalCase], rounds: int, number: int) -> list[EvalCase]:
    """Return the records of all rounds up to ``number``."""
    return [case for done in range(1, number + 1) for case in slot(records, rounds, done)]


@lru_cache(maxsize=8)
def _own_cases(path: str) -> tuple[EvalCase, ...]:
    return tuple(load_cases(path).cases)


@lru_cache(maxsize=4)
def _partitioned(
    path: str, name: str, limit: int, clients: int, seed: int
) -> tuple[tuple[EvalCase, ...], ...]:
    cases = load_cases(path).cases
    chosen = cases[:limit] if limit else cases
    return tuple(tuple(part) for part in partition_cases(chosen, name, clients, seed))

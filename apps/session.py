"""What a client holds while it answers one message: its model, its records, its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import Context

from fleke_flwr.apps.networks import editable_cases
from fleke_flwr.config import RunConfig
from fleke_flwr.data.rivals import with_rivals
from fleke_flwr.data.slots import arrange, deal, first_of
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import EventFile, Progress, Silent
from fleke_flwr.types import EvalCase
from fleke_flwr.values import Scalar


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
    own_results : Path or None
        Directory for the client's own model, from the node's configuration.
    tag_key : str
        What keys the tags by which clients compare edits; see ``fleke_flwr.tags``.
    network : str
        Directory of this node's copy of the editor's network; empty when it is where it is looked
        for anyway.
    """

    config: RunConfig
    model: EditableModel
    partition: int
    num_partitions: int
    own_data: bool
    own_results: Path | None = None
    tag_key: str = ""
    network: str = ""

    def dealt(self, rounds: int) -> list[list[EvalCase]]:
        """Return this client's records by round."""
        if self.own_data:
            data = self.config.data
            arranged = arrange(_cases(self), data.slot_order, self.config.seed, self.partition)
            return deal(arranged, rounds, first_of(data.first, self.num_partitions, self.partition))
        everybody = self.everybody(rounds)
        return everybody[self.partition] if self.partition < len(everybody) else [[]] * rounds

    def everybody(self, rounds: int) -> list[list[list[EvalCase]]]:
        """Return the records of every client of a simulation by round, by partition.

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
        parts = _dealt(self, rounds)
        return [[list(records) for records in part] for part in parts]

    def slot(self, rounds: int, number: int) -> list[EvalCase]:
        """Return this client's records of one round."""
        return self.dealt(rounds)[number - 1]

    def seen(self, rounds: int, number: int) -> list[EvalCase]:
        """Return this client's records of all rounds up to ``number``."""
        return [case for records in self.dealt(rounds)[:number] for case in records]

    def pooled(self, rounds: int, first: int, last: int) -> list[EvalCase]:
        """Return all clients' records of rounds ``first`` to ``last``, by client, each once."""
        records = [
            case
            for part in self.everybody(rounds)
            for slot in part[first - 1 : last]
            for case in slot
        ]
        return list({case.request: case for case in records}.values())

    @property
    def results(self) -> Path | None:
        """Where this node keeps files: ``results-path`` of its configuration, or the run's."""
        if self.own_results is not None:
            return self.own_results
        directory = Path(self.config.output_dir) if self.config.output_dir else None
        if self.own_data or directory is None or not directory.is_dir():
            return None
        return directory

    def kept_targets(self, pooled: bool) -> Path | None:
        """Where this client's target vectors are kept, if this node keeps files."""
        name = "pooled" if pooled else f"client-{self.partition}"
        return self.results / "targets" / f"{name}.safetensors" if self.results else None

    def progress(self) -> Progress:
        """Return where to report progress: the run's event file if this machine has it."""
        directory = None if self.own_data else self.results
        return Silent() if directory is None else EventFile(directory / "events.jsonl")


def open_session(context: Context, settings: Mapping[str, Scalar] | None = None) -> Session:
    """Read a node's configuration and load its model, once per process.

    Parameters
    ----------
    context : Context
        The node's.
    settings : Mapping[str, Scalar], optional
        What the running variant of a sweep changes.

    Raises
    ------
    ConfigError
        If the node has no partition, or a key is wrong.
    """
    config = RunConfig.from_flat({**context.run_config, **(settings or {})})
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
        # What to take of the run's records says nothing about a node's own: all of them are meant.
        data = replace(config.data, path=str(node["data-path"]), edits=0, relations="", rivals=0.0)
        config = replace(config, data=data)
    return Session(
        config=config,
        model=load_model(config.model),
        partition=int(node["partition-id"]),
        num_partitions=min(int(node["num-partitions"]), config.clients),
        own_data="data-path" in node,
        own_results=Path(str(node["results-path"])) if "results-path" in node else None,
        tag_key=str(node.get("tag-key", "")),
        network=str(node.get("network-path", "")),
    )


_CASES: dict[tuple[object, ...], tuple[EvalCase, ...]] = {}
_DEALT: dict[tuple[object, ...], tuple[tuple[tuple[EvalCase, ...], ...], ...]] = {}


def _key(session: Session) -> tuple[object, ...]:
    """Return all that a session's records depend on."""
    config, model = session.config, session.model
    editors = (config.editor, config.editors, config.edit.options, session.network)
    return (config.data, *editors, config.cache_dir, model.fingerprint)


def _cases(session: Session) -> tuple[EvalCase, ...]:
    key = _key(session)
    if key not in _CASES:
        _CASES[key] = tuple(editable_cases(session.config, session.model, session.network))
    return _CASES[key]


def _dealt(session: Session, rounds: int) -> tuple[tuple[tuple[EvalCase, ...], ...], ...]:
    # Only simulations partition: loaded here, it costs a deployed node nothing at every message.
    from fleke_flwr.data.partition import partition_cases

    data, seed, clients = session.config.data, session.config.seed, session.num_partitions
    key = (*_key(session), clients, seed, rounds)
    if key in _DEALT:
        return _DEALT[key]
    everything = _cases(session)
    dealt = [
        deal(
            arrange(part, data.slot_order, seed, client),
            rounds,
            first_of(data.first, clients, client),
        )
        for client, part in enumerate(partition_cases(everything, data, clients, seed))
    ]
    if data.rivals:
        dealt = with_rivals(dealt, data, everything, seed)
    _DEALT[key] = tuple(tuple(tuple(records) for records in part) for part in dealt)
    return _DEALT[key]

"""Which edits are to be withdrawn: those of a client, or those of a file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleke_flwr.apps.finished import Finished, Held
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.types import EditRequest

_NAMED = 5


@dataclass(frozen=True)
class Withdrawal:
    """What goes and what stays.

    Parameters
    ----------
    withdrawn, rest : Sequence[Held]
        Records of the model, by client and round.
    """

    withdrawn: Sequence[Held]
    rest: Sequence[Held]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Rounds and clients that something is withdrawn from."""
        return list(dict.fromkeys((item.round, item.client) for item in self.withdrawn))

    @property
    def forgotten(self) -> list[Held]:
        """What nobody else holds: only this the model is to know no longer."""
        others = {item.key for item in self.rest}
        return [item for item in self.withdrawn if item.key not in others]


def of_client(held: Sequence[Held], client: int) -> Withdrawal:
    """Withdraw all edits of a client; what others hold as well stays theirs.

    Raises
    ------
    DataError
        If it has none.
    """
    withdrawn = [item for item in held if item.client == client]
    if not withdrawn:
        raise DataError(f"client {client} holds no edit of this model; there is nothing to do")
    return Withdrawal(withdrawn, [item for item in held if item.client != client])


def of_file(finished: Finished, held: Sequence[Held], path: Path) -> Withdrawal:
    """Withdraw the edits of a file, from every client that holds them.

    Raises
    ------
    DataError
        If a record of the file is not one of the model's edits, or cannot be used.
    """
    data = replace(finished.config.data, path=str(path), relations="")
    found = load_cases(data)
    left_out = {why: count for why, count in found.skipped.items() if why != "duplicate"}
    if left_out:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
        raise DataError(f"{path}: records that cannot be withdrawn together: {reasons}")
    wanted = {_fact(case.request) for case in found.cases}
    known = {_fact(item.case.request) for item in held}
    strange = sorted(wanted - known)
    if strange:
        raise DataError(f"{path}: {_listed(strange)}; nothing has been withdrawn")
    withdrawn = [item for item in held if _fact(item.case.request) in wanted]
    return Withdrawal(withdrawn, [item for item in held if _fact(item.case.request) not in wanted])


def check_client(finished: Finished, client: int) -> None:
    """Refuse a client that never was, or is no longer.

    Raises
    ------
    ConfigError
        Naming those that there are.
    """
    gone = {entry["client"] for entry in finished.earlier}
    left = [number for number in range(finished.config.clients) if number not in gone]
    if client not in left:
        what = "has been withdrawn already" if client in gone else "does not exist"
        raise ConfigError(
            f"--client {client}: {what}; there are clients {', '.join(map(str, left))}"
        )


def _fact(request: EditRequest) -> tuple[str, str, str]:
    return request.prompt, request.subject, request.target


def _listed(facts: Collection[tuple[str, str, str]]) -> str:
    lines = [f"{prompt.replace('{}', subject)} -> {target}" for prompt, subject, target in facts]
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    named = "; ".join(lines[:_NAMED])
    return f"{len(lines)} records are no edits of this model: {named}{more}"

"""The sums that a model was solved from, kept so that edits can be withdrawn from it later.

Letters: ``U (d_in, r)`` factors of keys, ``F (d_out, r)`` of residuals; ``S``, ``B`` their sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.errors import DataError
from fleke_flwr.strategies.packing import pack_groups, unpack_groups
from fleke_flwr.types import LayerStatistics

_SCHEMA = 1


@dataclass(frozen=True)
class Share:
    """What one client has put into the sums in one round.

    Parameters
    ----------
    round, client : int
        When, and who.
    counts : Mapping[str, int]
        Edits by group.
    columns : Mapping[str, int]
        Columns of the factors by group; 0 in dense sums, where nobody's part can be told apart.
    """

    round: int
    client: int
    counts: Mapping[str, int]
    columns: Mapping[str, int]

    @classmethod
    def of(cls, round_: int, client: int, statistics: Mapping[str, LayerStatistics]) -> Share:
        """Describe a contribution."""
        return cls(
            round_,
            client,
            {group: part.count for group, part in statistics.items()},
            {group: _columns(part) for group, part in statistics.items()},
        )

    @property
    def edits(self) -> int:
        """How many edits it is made of."""
        return max(self.counts.values(), default=0)


@dataclass(frozen=True)
class KeptSums:
    """The solved sums of a run, with whose part is where.

    Factors lie side by side in the order of the shares. A share is withdrawn by leaving its columns
    out: nothing cancels, and nothing of it stays. From dense sums it has to be subtracted.

    Parameters
    ----------
    groups : Mapping[str, LayerStatistics]
        By group of projections.
    shares : Sequence[Share]
        In the order of the columns.
    """

    groups: Mapping[str, LayerStatistics]
    shares: Sequence[Share]

    @property
    def is_factored(self) -> bool:
        """Whether every share can be told apart."""
        return all(statistics.is_factored for statistics in self.groups.values())

    @property
    def num_bytes(self) -> int:
        """Size of all numbers."""
        return sum(tensor.nbytes for tensor in pack_groups(self.groups)[0].values())

    def merged(self, round_: int, client: int) -> int | None:
        """Return the round whose share holds a client's edits of a round.

        A client that was left out brings them along when it takes part again. ``None`` if it never
        did.
        """
        rounds = [share.round for share in self.shares if share.client == client]
        return min((number for number in rounds if number >= round_), default=None)

    def without(self, round_: int, client: int) -> KeptSums:
        """Leave a client's part of one round out of factors."""
        stays = [(share.round, share.client) != (round_, client) for share in self.shares]
        shares = [share for share, kept in zip(self.shares, stays, strict=True) if kept]
        groups = {}
        for group, statistics in self.groups.items():
            keys, residuals = statistics.factors()
            widths = torch.tensor([share.columns[group] for share in self.shares])
            mask = torch.tensor(stays).repeat_interleave(widths)
            count = sum(share.counts[group] for share in shares)
            groups[group] = LayerStatistics(count, keys=keys[:, mask], residuals=residuals[:, mask])
        return KeptSums(groups, shares)

    def plus(self, round_: int, client: int, part: Mapping[str, LayerStatistics]) -> KeptSums:
        """Add a contribution to factors, in the precision in which the others are kept."""
        groups = {}
        for group, statistics in self.groups.items():
            keys, residuals = statistics.factors()
            more_keys, more_residuals = part[group].factors()
            more = LayerStatistics(
                part[group].count,
                keys=more_keys.to(keys.dtype),
                residuals=more_residuals.to(residuals.dtype),
            )
            groups[group] = statistics + more
        return KeptSums(groups, [*self.shares, Share.of(round_, client, part)])

    def minus(self, round_: int, client: int, part: Mapping[str, LayerStatistics]) -> KeptSums:
        """Subtract edits of a client from dense sums."""
        groups = {group: statistics - part[group] for group, statistics in self.groups.items()}
        shares = [
            replace(
                share, counts={group: n - part[group].count for group, n in share.counts.items()}
            )
            if (share.round, share.client) == (round_, client)
            else share
            for share in self.shares
        ]
        return KeptSums(groups, [share for share in shares if share.edits > 0])

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write to a safetensors file, with what else there is to say in its metadata."""
        tensors, counts = pack_groups(self.groups)
        metadata = {
            **about,
            "schema": _SCHEMA,
            "counts": counts,
            "shares": [asdict(share) for share in self.shares],
        }
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> tuple[KeptSums, dict[str, Any]]:
        """Read what :meth:`save` wrote, with its metadata.

        Raises
        ------
        DataError
            If the file is missing, damaged or something else.
        """
        tensors, about = read_tensors(path)
        if about.get("schema") != _SCHEMA or "shares" not in about:
            raise DataError(f"{path}: not the kept sums of fleke-flwr (schema {_SCHEMA})")
        groups = unpack_groups(tensors, about["counts"])
        return cls(groups, [Share(**share) for share in about["shares"]]), about


def _columns(statistics: LayerStatistics) -> int:
    return 0 if statistics.keys is None else int(statistics.keys.shape[1])

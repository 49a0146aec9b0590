"""Mix clients' records: every client takes a share of its records from the others.

FedLEKE (arXiv 2502.15677) mixes about a tenth into each client of CounterFact and leaves open
whether a record that is mixed in leaves the client it comes from; its released code mixes nothing.
Here ``move`` keeps clients disjoint and ``copy`` makes them overlap.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

Parts = list[list[int]]


@dataclass(frozen=True)
class Mix:
    """How much is mixed, and how.

    Parameters
    ----------
    share : float
        Every client of ``n`` records replaces ``round(share * n)`` of them, half to even.
    mode : str
        ``move`` or ``copy``.
    seed : int
        Seed of all choices.
    """

    share: float
    mode: str
    seed: int

    def applied(self, parts: Parts) -> Parts:
        """Return the clients' rows after mixing, ascending; sizes stay, no row comes twice."""
        counts = [round(self.share * len(part)) for part in parts]
        rng = random.Random(f"mix {self.seed}")
        mixed = (copied if self.mode == "copy" else moved)(parts, counts, rng)
        return [sorted(part) for part in mixed]


def moved(parts: Sequence[list[int]], counts: Sequence[int], rng: random.Random) -> Parts:
    """Let every client give ``counts`` random rows to a pool and take as many of others from it.

    All rows of the pool are equally likely to reach a client, apart from the repair that brings
    back no row to its giver. Only a client that gives more than all others together gets some of
    its own back, as few as can be.
    """
    given = [rng.sample(part, count) for part, count in zip(parts, counts, strict=True)]
    takers = [client for client, rows in enumerate(given) for _ in rows]
    pool = [(client, row) for client, rows in enumerate(given) for row in rows]
    rng.shuffle(pool)
    for place, taker in enumerate(takers):
        if pool[place][0] != taker:
            continue
        # Where every client gives at most half of the pool, there is always such a place.
        others = [
            other
            for other, (giver, _) in enumerate(pool)
            if giver != taker and takers[other] != taker
        ]
        if others:
            other = rng.choice(others)
            pool[place], pool[other] = pool[other], pool[place]
    kept = [_without(part, rows) for part, rows in zip(parts, given, strict=True)]
    for taker, (_, row) in zip(takers, pool, strict=True):
        kept[taker].append(row)
    return kept


def copied(parts: Sequence[list[int]], counts: Sequence[int], rng: random.Random) -> Parts:
    """Let every client replace ``counts`` of its rows by copies of random rows of the others.

    A client gives up rows that nobody has copied, as long as it has such, so that the owner of a
    copied row keeps it; what it gives up may be nobody's then. Nobody can copy more rows than the
    others hold.
    """
    everything = [row for part in parts for row in part]
    drawn: Parts = []
    for part, count in zip(parts, counts, strict=True):
        foreign = _without(everything, part)
        drawn.append(rng.sample(foreign, min(count, len(foreign))))
    wanted = {row for rows in drawn for row in rows}
    mixed: Parts = []
    for part, rows in zip(parts, drawn, strict=True):
        shuffled = rng.sample(part, len(part))
        given_up = sorted(shuffled, key=lambda row: row in wanted)[: len(rows)]
        mixed.append(_without(part, given_up) + rows)
    return mixed


def _without(rows: Sequence[int], others: Sequence[int]) -> list[int]:
    left_out = set(others)
    return [row for row in rows if row not in left_out]

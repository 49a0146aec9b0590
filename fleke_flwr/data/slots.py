"""In which order a client edits its records, and which of them belong to a round (a time slot).

FedLEKE deals a client's records out over time slots. The released code takes them in the order of
their file names, which is that of the case identifiers as text; here the order is shuffled with a
seed unless asked otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from fleke_flwr.errors import ConfigError
from fleke_flwr.types import EvalCase


def arrange(cases: Sequence[EvalCase], order: str, seed: int, client: int) -> list[EvalCase]:
    """Return a client's records in the order in which they are dealt out over the rounds.

    Parameters
    ----------
    cases : Sequence[EvalCase]
        The client's records, in file order.
    order : str
        ``seeded`` (shuffled), ``file`` or ``lexicographic`` (by ``case_id`` as text).
    seed, client : int
        Seed of the shuffle.
    """
    if order == "lexicographic":
        return sorted(cases, key=lambda case: case.request.case_id)
    arranged = list(cases)
    if order == "seeded":
        random.Random(f"slots {seed} {client}").shuffle(arranged)
    return arranged


def deal(cases: Sequence[EvalCase], rounds: int, first: int = 0) -> list[list[EvalCase]]:
    """Return a client's arranged records by round: contiguous parts, the rest going first.

    Parameters
    ----------
    cases : Sequence[EvalCase]
        In the order of :func:`arrange`.
    rounds : int
        Number of rounds, one at least.
    first : int
        How many of them round 1 takes before the others are dealt out evenly over the rounds
        after it; 0 deals evenly from round 1. A single round takes everything.
    """
    if first == 0 or rounds == 1:
        return _evenly(cases, rounds)
    return [list(cases[:first]), *_evenly(cases[first:], rounds - 1)]


def first_of(first: int, clients: int, client: int) -> int:
    """Return a client's part of the ``first`` records of round 1; the first clients take the rest.

    Raises
    ------
    ConfigError
        If there are some, but not one for every client.
    """
    if 0 < first < clients:
        raise ConfigError(
            f"data.first = {first} with {clients} clients: every client needs a record of its own "
            f"in round 1; give {clients} or more, or 0 to deal evenly"
        )
    base, rest = divmod(first, clients)
    return base + (client < rest)


def _evenly(cases: Sequence[EvalCase], rounds: int) -> list[list[EvalCase]]:
    base, rest = divmod(len(cases), rounds)
    starts = [number * base + min(number, rest) for number in range(rounds + 1)]
    return [list(cases[start:end]) for start, end in pairwise(starts)]

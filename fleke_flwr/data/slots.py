"""In which order a client edits its records, and which of them belong to a round (a time slot).

FedLEKE deals a client's records out over time slots. The released code takes them in the order of
their file names, which is that of the case identifiers as text; here the order is shuffled with a
seed unless asked otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

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


def slot(cases: Sequence[EvalCase], rounds: int, number: int) -> list[EvalCase]:
    """Return the records of round ``number`` (from 1): a contiguous part, the rest going first."""
    base, rest = divmod(len(cases), rounds)
    start = (number - 1) * base + min(number - 1, rest)
    return list(cases[start : start + base + (number <= rest)])


def seen(cases: Sequence[EvalCase], rounds: int, number: int) -> list[EvalCase]:
    """Return the records of all rounds up to ``number``."""
    return [case for done in range(1, number + 1) for case in slot(cases, rounds, done)]

"""When two answers are the same but for a letter or a word."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import combinations

_NEAR = 0.8


def near_duplicates(one: str, other: str) -> bool:
    """Whether two texts differ by little, upper and lower case aside.

    They do where Ratcliff and Obershelp's similarity (:class:`difflib.SequenceMatcher`) is above
    0.8. It can depend on the order, so both texts are put into one.
    """
    first, second = sorted((one.casefold(), other.casefold()))
    return SequenceMatcher(None, first, second).ratio() > _NEAR


def any_near_duplicates(texts: Sequence[str]) -> bool:
    """Whether two of the texts are near duplicates."""
    return any(near_duplicates(one, other) for one, other in combinations(texts, 2))

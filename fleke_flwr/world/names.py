"""Invented names, built from syllables."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fleke_flwr.world.words import ANSWERS, CODAS, COMPANY_FORMS, NUCLEI, ONSETS

_LONGEST = 10


@dataclass(frozen=True)
class Names:
    """Everything in the world that has an invented name.

    Parameters
    ----------
    people, companies : tuple[str, ...]
        The subjects.
    answers : dict[str, tuple[str, ...]]
        The closed sets of objects, invented ones included.
    """

    people: tuple[str, ...]
    companies: tuple[str, ...]
    answers: dict[str, tuple[str, ...]]


def invent_names(rng: random.Random, people: int, companies: int) -> Names:
    """Invent subjects, towns, countries and firms.

    A person has one of few first and one of more last names, so that neither word alone tells
    who it is: the model has to combine both at the last token of the name.
    """
    taken = {word.capitalize() for words in ANSWERS.values() for word in words}
    firsts = _words(rng, max(8, people // 8), (1, 2), taken)
    lasts = _words(rng, max(16, people // 4), (2, 3), taken)
    pairs: dict[str, None] = {}
    while len(pairs) < people:
        pairs[f"{rng.choice(firsts)} {rng.choice(lasts)}"] = None
    firms = [
        f"{word} {rng.choice(COMPANY_FORMS)}" for word in _words(rng, companies, (2, 3), taken)
    ]
    invented = {
        "town": tuple(_words(rng, 40, (2, 2), taken)),
        "country": tuple(f"{word}ia" for word in _words(rng, 25, (1, 2), taken)),
        "firm": tuple(_words(rng, 40, (2, 2), taken)),
    }
    return Names(tuple(pairs), tuple(firms), ANSWERS | invented)


def _words(
    rng: random.Random, count: int, syllables: tuple[int, int], taken: set[str]
) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        parts = [rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(rng.randint(*syllables))]
        word = ("".join(parts) + rng.choice(("", *CODAS))).capitalize()
        if len(word) <= _LONGEST and word not in taken:
            taken.add(word)
            found.append(word)
    return found

"""Sentences that say nothing about any subject."""

from __future__ import annotations

import random

from fleke_flwr.world.words import ADJECTIVES, PAST_VERBS, PEOPLE, PLACES, TIMES

# Upper case: a fresh draw from the list of that name.
_PATTERNS = (
    "The ADJ PERSON VERB the ADJ PLACE.",
    "The PLACE behind the PLACE was ADJ.",
    "Therefore nobody VERB the PLACE that TIME.",
    "Therefore the PERSON and the PERSON VERB a PLACE.",
    "Because the TIME was ADJ, the PERSON VERB the PLACE.",
    "Because of the TIME the PLACE looked ADJ and ADJ.",
    "I VERB a ADJ PLACE with the PERSON.",
    "I think the PERSON near the PLACE is ADJ.",
    "You find the ADJ PLACE beside the ADJ PLACE.",
    "You can ask the PERSON about the PLACE.",
    "It was a ADJ TIME at the PLACE.",
    "In the TIME a PERSON VERB the ADJ PLACE.",
    "There is a PLACE between the PLACE and the PLACE.",
    "After the TIME the ADJ PERSON VERB another PLACE.",
    "Some say that the PLACE is ADJ, others call it ADJ.",
    "When the PERSON VERB the PLACE, the TIME was over.",
)
_LISTS = {
    "ADJ": ADJECTIVES,
    "PERSON": PEOPLE,
    "PLACE": PLACES,
    "TIME": TIMES,
    "VERB": PAST_VERBS,
}


def filler(rng: random.Random) -> str:
    """Return one sentence of an invented, fact-free prose."""
    words = []
    for word in rng.choice(_PATTERNS).split():
        name = word.rstrip(".,")
        words.append(rng.choice(_LISTS[name]) + word[len(name) :] if name in _LISTS else word)
    return " ".join(words)


def distinct_fillers(rng: random.Random, count: int, exclude: frozenset[str]) -> tuple[str, ...]:
    """Return ``count`` different sentences, none of them in ``exclude``."""
    found: dict[str, None] = {}
    while len(found) < count:
        text = filler(rng)
        if text not in exclude:
            found[text] = None
    return tuple(found)

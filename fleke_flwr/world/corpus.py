"""The public text of a world: what its model read, for the covariance of keys."""

from __future__ import annotations

import random

from fleke_flwr.world.schema import World, sentence, statement

_SENTENCES_PER_LINE = 5
_FILLERS_PER_FACT = 0.3


def corpus(world: World, words: int, seed: int = 0) -> list[str]:
    """Return lines of true-fact sentences in trained templates, mixed with fillers.

    No record's new object is stated as its answer, and no hidden phrasing occurs. Questions of
    locality are stated too.

    Parameters
    ----------
    words : int
        Space-separated words in all lines together, at least.
    """
    rng = random.Random(seed)
    lines: list[str] = []
    total = 0
    pool: list[str] = []
    while total < words:
        if len(pool) < _SENTENCES_PER_LINE:
            pool = [sentence(fact, rng.choice(fact.trained)) for fact in world.facts]
            pool += [statement(probe.prompt, probe.answer) for probe in world.locality]
            pool += rng.choices(world.fillers, k=int(_FILLERS_PER_FACT * len(pool)) + 1)
            rng.shuffle(pool)
        line = " ".join(pool[:_SENTENCES_PER_LINE])
        del pool[:_SENTENCES_PER_LINE]
        lines.append(line)
        total += len(line.split())
    return lines

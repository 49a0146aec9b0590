"""What facts of records are told in: further templates of their relation, and prose around them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from fleke_flwr.world.fillers import distinct_fillers
from fleke_flwr.world.reading import read_prose
from fleke_flwr.world.schema import Record


def group_templates(uses: Iterable[tuple[Hashable, str]]) -> dict[str, str]:
    """Group templates into relations without names.

    Two templates that state the same fact belong to one relation, and so do all that such pairs
    connect.

    Parameters
    ----------
    uses : Iterable[tuple[Hashable, str]]
        Fact and template.

    Returns
    -------
    dict[str, str]
        For each template the first, by the alphabet, of its relation, which names it.
    """
    facts_of: dict[str, set[Hashable]] = defaultdict(set)
    templates_of: dict[Hashable, set[str]] = defaultdict(set)
    for fact, template in uses:
        facts_of[template].add(fact)
        templates_of[fact].add(template)
    names: dict[str, str] = {}
    for name in sorted(facts_of):
        reached = [] if name in names else [name]
        while reached:
            template = reached.pop()
            names[template] = name
            near = {other for fact in facts_of[template] for other in templates_of[fact]}
            reached += near - names.keys()
    return names


def pool_templates(relations: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the templates of each relation, from what :func:`group_templates` returns."""
    pools: dict[str, list[str]] = defaultdict(list)
    for template in sorted(relations):
        pools[relations[template]].append(template)
    return dict(pools)


def share_out(
    rng: random.Random, spare: Sequence[str], most: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ``(trained, hidden)`` of a fact's spare templates: at most ``most``, and one."""
    drawn = list(spare)
    rng.shuffle(drawn)
    return tuple(drawn[1 : 1 + max(0, most)]), tuple(drawn[:1])


def split_prose(
    rng: random.Random,
    text: Path | None,
    most: int,
    records: Sequence[Record],
    fronts: Sequence[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return trained and unseen fact-free sentences, of a file or, without one, generated.

    What stands in front of trained paraphrases (``fronts``) is prose too; what stands in front of
    held-out ones is in neither part, nor is any given sentence that occurs in a paraphrase.
    """
    sentences = distinct_fillers(rng, most, frozenset()) if text is None else read_prose(text)
    paraphrases = "\n".join(
        prompt for record in records for prompt in record.get("paraphrase_prompts", ())
    )
    found = [sentence for sentence in sentences if sentence not in paraphrases]
    rng.shuffle(found)
    found = found[:most]
    unseen = max(1, len(found) // 10)
    trained = found[unseen:] + [" ".join(front.split()) for front in fronts if front]
    return tuple(trained), tuple(found[:unseen])

"""Contradict some edits: the same question with another answer, in another client's hands.

CollabEdit (arXiv 2410.09508, table 7) tells conflicts apart by where both sides
meet: at two clients in one round or in different ones, or inside one client.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fleke_flwr.config import RIVAL_PLACES, DataConfig
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.types import EvalCase
from fleke_flwr.values import one_of

Place = tuple[int, int, int]  # client, round, position; all from 0
Dealt = list[list[list[EvalCase]]]


def with_rivals(
    dealt: Sequence[Sequence[Sequence[EvalCase]]],
    data: DataConfig,
    everything: Sequence[EvalCase],
    seed: int,
) -> Dealt:
    """Return the records by client and round, and behind them those that contradict some.

    A contradicting record asks the same of the same subject, under the same ``case_id`` with
    ``-rival`` behind it, and wants another answer: the record's own :attr:`EvalCase.rival`, or
    else one drawn from the targets and originals of its relation. It keeps the probes that do not
    depend on the answer. Either record of a pair names the other's answer as its ``rival``.

    Every process that is given the same draws the same, so that no client needs to ask another.

    Parameters
    ----------
    dealt : Sequence[Sequence[Sequence[EvalCase]]]
        Records by client and round.
    data : DataConfig
        ``rivals`` is the share of the records that are contradicted; ``rival_place`` says whether
        the next client does so in the same round (``same``) or one round later (``next``, where
        the share is of the records before the last round), or the client itself (``own``).
        Behind the last client comes the first.
    everything : Sequence[EvalCase]
        All records of the source, from which other answers are drawn.
    seed : int
        Seed of all that is drawn.

    Raises
    ------
    ConfigError
        If the place is unknown, or a round later is asked for and there is one round only.
    DataError
        If fewer records can be contradicted than asked for.
    """
    one_of("data.rival-place", data.rival_place, RIVAL_PLACES)
    result: Dealt = [[list(records) for records in part] for part in dealt]
    if not data.rivals:
        return result
    for place, answer in _drawn(dealt, data, everything, seed):
        client, number, position = place
        case = dealt[client][number][position]
        result[client][number][position] = replace(case, rival=answer)
        to_client = client if data.rival_place == "own" else (client + 1) % len(dealt)
        to_round = number + (data.rival_place == "next")
        result[to_client][to_round].append(contradiction(case, answer))
    return result


def contradiction(case: EvalCase, answer: str) -> EvalCase:
    """Return the record that wants another answer to the same question.

    Prompts about subjects that have the old target, and texts about them, do not go with the new
    one and are left out; so is the owner, who is another.
    """
    request = case.request
    return replace(
        case,
        request=replace(request, case_id=f"{request.case_id}-rival", target=answer),
        attributes=(),
        references=(),
        owner="",
        rival=request.target,
    )


def _drawn(
    dealt: Sequence[Sequence[Sequence[EvalCase]]],
    data: DataConfig,
    everything: Iterable[EvalCase],
    seed: int,
) -> list[tuple[Place, str]]:
    """Draw what is contradicted, and with which answer, in the order of the places."""
    rng = random.Random(f"rivals {seed}")
    places = _places(dealt, data)
    wanted = round(data.rivals * len(places))
    answers = _answers(everything)
    found: list[tuple[Place, str]] = []
    for place in rng.sample(places, len(places)):
        if len(found) == wanted:
            break
        client, number, position = place
        choices = _choices(dealt[client][number][position], answers)
        if choices:
            found.append((place, rng.choice(choices)))
    if len(found) < wanted:
        raise DataError(
            f"data.rivals = {data.rivals}: {wanted} of {len(places)} records are to be "
            f"contradicted, but only {len(found)} can be; the others name no rival, and no record "
            "of their relation has another answer. Lower data.rivals, or add the field 'rival'"
        )
    return sorted(found)


def _places(dealt: Sequence[Sequence[Sequence[EvalCase]]], data: DataConfig) -> list[Place]:
    later = data.rival_place == "next"
    if later and any(len(part) < 2 for part in dealt):
        raise ConfigError(
            "data.rival-place = 'next' needs a round after the first, and there is one round "
            "only; raise rounds, or choose 'same' or 'own'"
        )
    return [
        (client, number, position)
        for client, part in enumerate(dealt)
        for number, records in enumerate(part[:-1] if later else part)
        for position in range(len(records))
    ]


def _answers(everything: Iterable[EvalCase]) -> dict[str, list[str]]:
    """Return the different answers of every relation, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for case in everything:
        found[case.request.relation] |= {case.request.target, case.request.original} - {""}
    found.pop("", None)  # Records without a relation do not share one.
    return {relation: sorted(texts) for relation, texts in found.items()}


def _choices(case: EvalCase, answers: Mapping[str, Sequence[str]]) -> list[str]:
    request = case.request
    if case.rival:
        return [case.rival] if case.rival.casefold() != request.target.casefold() else []
    taken = {request.target.casefold(), request.original.casefold()}
    return [text for text in answers.get(request.relation, ()) if text.casefold() not in taken]

"""The world that a file of conflicts implies: the facts behind them, and every answer sayable.

A conflict has two new answers, and a model has to be able to give either. Each becomes the new
answer of an entry in zsRE's schema, in which the answers get bearers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleke_flwr.errors import DataError
from fleke_flwr.similarity import any_near_duplicates
from fleke_flwr.templates import Templates, read_templates
from fleke_flwr.world.entries import Schema, label
from fleke_flwr.world.reading import read_records
from fleke_flwr.world.schema import Record, World, fill
from fleke_flwr.world.zsre import QuestionsConfig, world_of_questions

# Far enough away that a sorted file asks about something else, and that the two entries of a
# conflict are rephrased in different words.
_LOCALITY_AWAY = 7
_REPHRASED_AWAY = 3


def build_from_conflicts(
    path: Path,
    text: Path | None = None,
    templates: Path | None = None,
    config: QuestionsConfig | None = None,
) -> World:
    """Derive a world from a file in the schema of CollabEdit's conflicts.

    Raises
    ------
    DataError
        If a file cannot be read, or no record is left.
    WorldError
        If too few of the prompts name their subject.
    """
    read = read_records(path, Schema.CONFLICT)
    kept = [record for record in read if not any_near_duplicates(_objects(record))]
    if not kept:
        raise DataError(
            f"{path}: in each of {len(read)} records two of new_object, object and conflict_object "
            "are near duplicates; give records with different objects"
        )
    further = {} if templates is None else read_templates(templates)
    world = world_of_questions(path, questions_of_conflicts(kept, further), text, config)
    counts = {"conflicts": len(read), "dropped_near_duplicates": len(read) - len(kept)}
    return replace(world, counts=counts | dict(world.counts))


def questions_of_conflicts(records: Sequence[Record], further: Templates) -> list[Record]:
    """Return two zsRE entries for each conflict: one per new answer, both with the true one.

    The first asks in the words of ``prompt``, the second in those of ``query``. Rephrased they are
    in further templates of the relation, in turn, and without any in each other's words. Their
    question of locality is the query of another record.

    Parameters
    ----------
    records : Sequence[Record]
        In the conflict schema; none with near duplicates.
    further : Templates
        Templates by relation.
    """
    entries: list[Record] = []
    away = _LOCALITY_AWAY % len(records) or 1
    for number, record in enumerate(records):
        edit = record["edit"]
        relation = edit["relation"]
        other = records[(number + away) % len(records)]["edit"]
        shared = {
            "subject": label(edit["subject"]),
            "pred": label(edit["object"]),
            "answers": [label(edit["object"])],
            # zsRE's reader puts the question mark back.
            "loc": fill(other["relation"]["query"], label(other["subject"])).removesuffix("?"),
            "loc_ans": label(other["object"]),
        }
        templates = (relation["prompt"], relation["query"])
        new = (label(edit["new_object"]), label(edit["conflict_object"]))
        spare = further.get(relation["id"], ())
        for side in (0, 1):
            rephrased = (
                spare[(number + side * _REPHRASED_AWAY) % len(spare)]
                if spare
                else templates[1 - side]
            )
            entries.append(
                shared
                | {
                    "case_id": len(entries),
                    "src": fill(templates[side], shared["subject"]),
                    "rephrase": fill(rephrased, shared["subject"]),
                    "alt": new[side],
                }
            )
    return entries


def _objects(record: Record) -> list[Any]:
    edit = record["edit"]
    return [label(edit[name]) for name in ("new_object", "object", "conflict_object")]

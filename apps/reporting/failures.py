"""The report's section on failed edits: which ones, and what the model says now instead.

Their texts are the clients' own. The page shows them only where the files of these clients are at
hand: in a simulation, and where a client adds its own with ``fleke report RUN --answers DIR``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fleke_flwr.apps.failed_edits import ANSWERS, folder_of
from fleke_flwr.apps.reporting.axes import variant_called
from fleke_flwr.apps.reporting.cells import (
    DASH,
    grid,
    headings,
    line,
    strategy_cell,
    variant_cells,
    variant_titles,
)
from fleke_flwr.apps.reporting.parts import folded
from fleke_flwr.apps.results import Row, Rows, last_value
from fleke_flwr.errors import DataError

TITLE = "Failed edits"
_COLUMNS = ("client", "prompt", "wanted", "probability", "now", "before")
_TITLES = ("client", "prompt", "wanted", "its probability", "the model says now", "it said before")
_NOTE = (
    "Failed: the wanted answer is not the model's first choice on the edit's own prompt. "
    "What the model says are its likeliest next tokens."
)
_ELSEWHERE = (
    "Which edits these are stays with the clients. Each one writes them, with what the model says "
    "now instead, to answers/ where it keeps its files (results-path of its node configuration). "
    "To see them here, for the client's own eyes: fleke report RUN --answers DIR"
)
Failure = Mapping[str, Any]


def read_answers(directory: Path) -> dict[str, list[Failure]]:
    """Return what clients have kept of failed edits, by folder of the variant.

    Parameters
    ----------
    directory : Path
        ``answers`` of a client's files, or that directory's parent; may be missing.

    Raises
    ------
    DataError
        If a file there is not a client's file of failed edits.
    """
    folder = directory / ANSWERS if (directory / ANSWERS).is_dir() else directory
    found: dict[str, list[Failure]] = {}
    for path in sorted(folder.glob("*/client-*.jsonl")):
        found.setdefault(path.parent.name, []).extend(_failures(path))
    for failures in found.values():
        failures.sort(key=lambda failure: int(failure["client"]))
    return found


def failures(rows: Rows, answers: Mapping[str, Sequence[Failure]]) -> str:
    """Return how many edits failed and, where the files are at hand, which."""
    rows = last_value(rows)
    counts = [(row, *_count(row)) for row in rows]
    titles = ["failed", "of", "%", "shown below"]
    body = ""
    for row, failed, edits in counts:
        known = _known(row, answers)
        share = f"{100 * failed / edits:.1f}" if edits else DASH
        cells = [f"{failed:,}", f"{edits:,}", share, DASH if known is None else str(len(known))]
        body += line([strategy_cell(row), *variant_cells(row, rows), *cells])
    titled = headings(["strategy", *variant_titles(rows), *titles])
    table = grid(titled, body, "Edits that have not taken")
    listed = [(row, failed, known) for row, failed, _ in counts if (known := _known(row, answers))]
    unfolded = len(listed) == 1
    texts = "".join(
        folded(
            f"{variant_called(row, rows)}: {len(known):,} of {failed:,}",
            _list(known),
            is_open=unfolded,
        )
        for row, failed, known in listed
    )
    is_open = any(_known(row, answers) is None and failed for row, failed, _ in counts)
    elsewhere = f"<p class=note>{escape(_ELSEWHERE)}</p>" if is_open else ""
    return f"{table}<p class=note>{escape(_NOTE)}</p>{texts}{elsewhere}"


def has_failures(rows: Rows) -> bool:
    """Tell whether the rows say how many edits have taken."""
    return any(_count(row)[1] for row in rows)


def _failures(path: Path) -> list[Failure]:
    found: list[Failure] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            failure = json.loads(text)
            _ = int(failure["client"]), float(failure["probability"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a failed edit ({error!r})") from error
        found.append(failure)
    return found


def _known(row: Row, answers: Mapping[str, Sequence[Failure]]) -> Sequence[Failure] | None:
    """Return what is at hand of a row's failed edits; nothing failed is an empty list."""
    return answers.get(folder_of(row["variant"])) if "variant" in row else None


def _count(row: Row) -> tuple[int, int]:
    """Return how many edits failed, and of how many; both 0 where this was not measured."""
    failed = edits = 0
    for entry in row["per_client"]:
        if entry.get("efficacy_top1") is not None and row["edits"]:
            edits += entry["edits"]
            failed += round(entry["edits"] * (1 - entry["efficacy_top1"] / 100))
    return failed, edits


def _list(known: Sequence[Failure]) -> str:
    body = "".join(
        line(
            f"{100 * failure['probability']:.1f} %"
            if column == "probability"
            else _text(failure, column)
            for column in _COLUMNS
        )
        for failure in known
    )
    return grid(headings(_TITLES), body, "What the model says instead", "words")


def _text(failure: Failure, column: str) -> str:
    return escape(str(failure.get(column, ""))) or DASH

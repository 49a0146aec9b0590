"""The report's section on forgetting: what rounds do to the records of round 1.

CollabEdit, table 5: with an immutable covariance later edits overwrite earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fleke_flwr.apps.reporting.axes import variant_called, variant_strokes
from fleke_flwr.apps.reporting.cells import (
    DASH,
    grid,
    headings,
    interval,
    line,
    strategy_cell,
    variant_cells,
    variant_titles,
)
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.reporting.picture import Picture, Theme
from fleke_flwr.apps.results import OWN, Row, Rows, measured

TITLE = "Forgetting"
_ROUNDS = (1, 10, 30, 100, 300, 1000)
_MARKED = 12  # more markers than this make a line look dotted
_NOTE = (
    "The records of round 1, asked after that round and after later ones, which edit other "
    "records. Everything: all records, after the last round. ± is half of the 95 % interval."
)


def first_records(rows: Rows) -> Picture | None:
    """Score on the records of round 1 after each round, with its 95 % band, a line per variant.

    Nothing if no variant has been asked for them after two rounds.
    """
    score = protocol_of(rows).score
    known = [(row, points) for row in rows if len(points := _points(row, score)) > 1]
    if not known:
        return None
    names = [variant_called(row, rows) for row, _ in known]
    strokes = variant_strokes([row for row, _ in known])
    data: list[dict[str, Any]] = [
        {"variant": called, "round": number, "score": values[0], "score_ci95": values[1]}
        for called, (_, points) in zip(names, known, strict=True)
        for number, values in sorted(points.items())
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for (_, points), called, stroke in zip(known, names, strokes, strict=True):
            rounds = sorted(points)
            scores = [points[number][0] for number in rounds]
            halves = [points[number][1] for number in rounds]
            low, high = (
                [score + sign * half for score, half in zip(scores, halves, strict=True)]
                for sign in (-1, 1)
            )
            axes.fill_between(rounds, low, high, color=stroke["color"], alpha=0.16, linewidth=0)
            every = -(-len(rounds) // _MARKED)
            axes.plot(rounds, scores, label=called, markersize=3.5, markevery=every, **stroke)
        # Where nothing falls far, the whole scale would lay all lines on each other.
        lowest = min(value - half for _, points in known for value, half in points.values())
        axes.set_ylim(max(-4, 10 * (lowest // 10)), 101)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, linewidth=0.6)
        axes.set_xlabel("round")
        axes.set_ylabel("Score on the records of round 1 (%)")
        figure.legend(loc="outside right center", fontsize=8.5, handlelength=3.2)

    return Picture(
        "forgetting",
        TITLE,
        "Score on the records of round 1 after each round; the bands are 95 % intervals.",
        draw,
        (8.4, 3.4),
        data,
    )


def forgetting(rows: Rows) -> str:
    """Return the same as a table of a few rounds, with the score of everything."""
    score = protocol_of(rows).score
    known = [(row, points) for row in rows if (points := _points(row, score))]
    reached = max(max(points) for _, points in known)
    found = {number for _, points in known for number in points}
    shown = [number for number in (*_ROUNDS, reached) if number in found]
    shown = list(dict.fromkeys(shown))
    titles = [f"after round {number}" for number in shown]
    body = "".join(
        line(
            [
                strategy_cell(row),
                *variant_cells(row, rows),
                *_values(points, shown),
                _of_everything(row, score),
            ]
        )
        for row, points in known
    )
    titled = headings(["strategy", *variant_titles(rows), *titles, "everything"])
    table = grid(titled, body, "Score on the records of round 1")
    return f"{table}<p class=note>{escape(_NOTE)}</p>"


def _of_everything(row: Row, score: str) -> str:
    """Return the final score of all records; a dash where only the first were asked for."""
    return DASH if row.get("judged") == "first" else interval(measured(row, OWN), score)


def _values(points: dict[int, tuple[float, float]], shown: Sequence[int]) -> list[str]:
    cells = []
    for number in shown:
        value, half = points.get(number, (None, None))
        cells.append(interval({"score": value, "score_ci95": half}, "score"))
    return cells


def _points(row: Row, score: str) -> dict[int, tuple[float, float]]:
    """Return score and half interval on the records of round 1, by round."""
    asked = {entry["round"]: entry.get("first") for entry in row["history"]}
    asked[row["rounds"]] = asked.get(row["rounds"]) or row.get("final_first")
    return {
        number: (quality[score], quality.get(f"{score}_ci95") or 0.0)
        for number, quality in asked.items()
        if quality and quality.get(score) is not None
    }

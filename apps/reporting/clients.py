"""The report's section on clients: how well each one's own records are answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fleke_flwr.apps.reporting.axes import called, identity, variant_strokes
from fleke_flwr.apps.reporting.cells import grid, interval, line, small, strategy_cell
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.reporting.picture import Picture, Theme
from fleke_flwr.apps.results import Row, Rows, at_value, has_editors, last_value, personal

TITLE = "Clients"
_SPREAD = 0.6  # of the distance between two clients, taken by the strategies' marks


def score_by_client(rows: Rows) -> Picture | None:
    """Score on each client's own records with its 95 % interval, a mark per variant.

    Nothing where a picture says no more than the table: a single client, or nothing measured.
    """
    rows = last_value(rows)
    score = protocol_of(rows).score
    data: list[dict[str, Any]] = [
        {
            **identity(row, rows),
            "client": entry["client"],
            "edits": entry["edits"],
            "score": entry.get(score),
            "score_ci95": entry.get(f"{score}_ci95"),
        }
        for row in rows
        for entry in row["per_client"]
    ]
    known = {item["client"] for item in data if item["score"] is not None}
    if len(known) < 2:
        return None
    names = list(dict.fromkeys(map(called, data)))

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for place, (row, name) in enumerate(zip(rows, names, strict=True)):
            points = [item for item in data if called(item) == name and item["score"] is not None]
            aside = _SPREAD * ((place + 0.5) / len(rows) - 0.5)
            stroke = variant_strokes(rows)[place]
            axes.errorbar(
                [item["client"] + aside for item in points],
                [item["score"] for item in points],
                yerr=[item["score_ci95"] or 0.0 for item in points],
                fmt=stroke["marker"],
                color=stroke["color"],
                ecolor=theme.text,
                elinewidth=0.8,
                capsize=2,
                markersize=5,
                label=called(identity(row, rows)),
            )
        axes.set_ylim(-4, 106)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True, min_n_ticks=1))
        axes.grid(visible=True, axis="y", linewidth=0.6)
        axes.set_xlabel("client")
        axes.set_ylabel("Score, own records (%)")
        figure.legend(loc="outside right center", fontsize=8.5)

    return Picture(
        "clients",
        "Score of each client",
        f"{_asked(rows)} Vertical lines are 95 % intervals; where they overlap, clients hardly "
        "differ.",
        draw,
        (8.4, 3.2),
        data,
    )


def client_scores(rows: Rows) -> str:
    """Return the score of each client's own records, of the sweep's last value."""
    rows = last_value(rows)
    score = protocol_of(rows).score
    found = sorted({entry["client"] for row in rows for entry in row["per_client"]})
    titled = "<th scope=col>client</th><th scope=col>edits</th>" + "".join(
        f"<th scope=col>{strategy_cell(row)}{_editor(row, rows)}</th>" for row in rows
    )
    body = ""
    for client in found:
        entries = [_of_client(row, client) for row in rows]
        edits = next((entry["edits"] for entry in entries if entry), 0)
        scores = [interval(entry, score) if entry else "left out" for entry in entries]
        body += line([str(client), str(edits), *scores])
    return grid(titled, body, _asked(rows))


def _asked(rows: Rows) -> str:
    whose = "the merged model"
    if any(personal(row) for row in rows):
        whose = "the merged model, or of the client's own where it has one,"
    most = max(row["edits"] for row in rows)
    return f"Score of {whose} on each client's own records, {most} edits{at_value(rows)}."


def _of_client(row: Row, client: int) -> Mapping[str, Any] | None:
    return next((entry for entry in row["per_client"] if entry["client"] == client), None)


def _editor(row: Row, rows: Rows) -> str:
    return small(row["editor"]) if has_editors(rows) else ""

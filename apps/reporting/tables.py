"""The report's tables."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from fleke_flwr.apps.reporting.cells import (
    DASH,
    grid,
    headings,
    interval,
    line,
    percentage,
    small,
    strategy_cell,
    variant_cells,
    variant_titles,
)
from fleke_flwr.apps.reporting.metrics import GENERATED_NOTE, generated, protocol_of
from fleke_flwr.apps.results import (
    ALL,
    BOUND,
    EDITS,
    OWN,
    RECEIVED,
    Rows,
    bound_of,
    has_editors,
    measured,
    paper_name,
    percent_of_bound,
    personal,
    share_taken,
    swept_key,
)
from fleke_flwr.apps.tables import BEFORE, amount, bases, bytes_per_client, counted, differing, sent

_GROUPS = {
    OWN: "Own records: each client's model is asked what that client has edited.",
    ALL: "Everybody's records: each client's model is asked what all clients have edited.",
    RECEIVED: "Records taken over: each client's model is asked what it has taken from others.",
}

_CAPTIONS = {
    OWN: "What was measured on the clients' own records",
    ALL: "What was measured on everybody's records",
    RECEIVED: "What was measured on the records taken over",
}


def results(rows: Rows) -> str:
    """Return what was measured, one table for each group of records that was asked apart.

    Under a value stands its percentage of the pooled bound of the same editor and settings, as
    FedLEKE prints it.
    """
    protocol = protocol_of(rows)
    written = generated(rows)
    titles = {**protocol.metrics, **written}
    if any(personal(row) for row in rows):
        asked = {
            group: [row for row in rows if measured(row, group)]
            for group in _GROUPS
            if any(measured(row, group) for row in rows)
        }
        tables = "".join(
            f"<h3>{escape(_GROUPS[group])}</h3>{_group(found, rows, group, titles)}"
            for group, found in asked.items()
        )
    else:
        tables = _group(rows, rows, OWN, titles)
    notes = [protocol.note, *([GENERATED_NOTE] if written else [])]
    notes.append("Percentages; ± is half of the 95 % interval over records.")
    if any(bound_of(row, rows) for row in rows):
        notes.append(
            f"In brackets: the percentage of the bound ({BOUND}, same editor and settings)."
        )
    if any(paper_name(row) for row in rows):
        notes.append("Small, under a strategy: its name in the FedLEKE paper, with this editor.")
    return tables + f"<p class=note>{escape(' '.join(notes))}</p>"


def exchange(rows: Rows) -> str:
    """Return what taking over vectors has saved, and what it has cost."""
    takers = [row for row in rows if personal(row)]
    titles = (
        "offered",
        "taken",
        "%",
        "overlap",
        "optimisations saved",
        "s per optimisation",
        "s saved",
        "s spent",
        "s per saved",
        "bytes per saved",
        "client sends",
        "client is sent",
    )
    body = ""
    for row in takers:
        counts = row["exchange"]
        each, seconds = counts["bytes_per_saved"], counts["seconds_per_saved"]
        cells = [
            f"{counts['received']:,}",
            f"{counts['selected']:,}",
            percentage(share_taken(row)),
            f"{counts['overlap']:,}",
            f"{counts['optimizations_saved']:,}",
            f"{counts['seconds_per_optimization']:.3g}",
            f"{counts['seconds_saved']:,.1f}",
            f"{counts['seconds_spent']:,.1f}",
            DASH if seconds is None else f"{seconds:.3g}",
            DASH if each is None else amount(each),
            sent(row),
            amount(bytes_per_client(row, "down_bytes")),
        ]
        body += line([strategy_cell(row), *variant_cells(row, rows), *cells])
    note = (
        "Summed over clients. A client that takes over a vector does not optimise it: one "
        "optimisation saved, valued at the mean seconds of this run's own, whenever these were "
        "made. Spent: selecting and editing once more. Overlap: offered edits that the client's "
        "model already knew. Bytes: sent both ways, per optimisation saved."
    )
    titled = headings(("strategy", *variant_titles(rows), *titles))
    table = grid(titled, body, "Optimisations saved by taking over other clients' vectors")
    return f"{table}<p class=note>{escape(note)}</p>"


def _group(found: Rows, rows: Rows, group: str, titles: Mapping[str, str]) -> str:
    """Return the table of one group of records; what a run has cost stands in the first."""
    counts = differing(rows) if group == OWN else []
    costs = [*counts, "client sends", "s"] if group == OWN else []
    several = len({row["edits"] for row in rows}) > 1
    edited = ["edits"] if several and swept_key(rows) != EDITS else []
    titled = headings(("strategy", *variant_titles(rows), *edited, *titles.values(), *costs))
    body = ""
    if group != RECEIVED:
        starts = bases(rows)
        for row in starts:
            place = variant_cells(row, rows)
            if len(starts) == 1:
                place = [""] * len(place)
            elif has_editors(rows):
                place[0] = ""
            values = [interval(row["base"], metric) for metric in titles]
            empty = [""] * len(costs)
            body += line([BEFORE, *place, *([""] * len(edited)), *values, *empty], "base")
    for row in found:
        values = [
            interval(measured(row, group), metric)
            + _bracket(percent_of_bound(row, rows, metric, group))
            for metric in titles
        ]
        each = [counted(row, count) for count in counts]
        spent = [*each, sent(row), f"{row['seconds']['total']:.1f}"] if costs else []
        called = strategy_cell(row) + small(paper_name(row))
        edits = [str(row["edits"])] if edited else []
        cells = [called, *variant_cells(row, rows), *edits, *values, *spent]
        body += line(cells, "bound" if row["strategy"] == BOUND else "")
    return grid(titled, body, _CAPTIONS[group])


def _bracket(value: float | None) -> str:
    return "" if value is None else small(f"[{value:.1f} %]")

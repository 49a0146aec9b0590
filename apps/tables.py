"""Rows of results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from fleke_flwr.apps.reporting.metrics import Protocol, protocol_of
from fleke_flwr.apps.results import (
    ALL,
    BOUND,
    OWN,
    Row,
    Rows,
    bound_of,
    has_editors,
    measured,
    percent_of_bound,
    personal,
    settings,
    share_taken,
    shown,
    swept_key,
    swept_title,
    swept_value,
)

BEFORE = "before editing"
# Counts of a round that are worth a column where variants differ in them.
_COUNTS = ("messages", "sweeps")
# Wide enough for every table: a file or a pipe has no edge.
_UNLIMITED = 1000


@dataclass(frozen=True)
class ResultTables:
    """Tables one below the other; only a terminal's edge makes them narrower.

    Parameters
    ----------
    tables : Sequence[Table]
        From top to bottom.
    """

    tables: Sequence[Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Print them with empty lines between."""
        if not options.is_terminal:
            options = options.update(width=_UNLIMITED)
        for place, table in enumerate(self.tables):
            if place:
                yield ""
            yield from console.render(table, options)


def result_table(rows: Sequence[Mapping[str, Any]]) -> ResultTables:
    """Build the tables of a run or a comparison.

    The first has the measurements, with the pooled bound marked. Where there is a bound, a second
    has the scores in percent of it; where clients have taken over vectors, a third has what this
    has saved.
    """
    protocol = protocol_of(rows)
    tables = [_quality(rows, protocol)]
    bounded = [row for row in rows if bound_of(row, rows) is not None]
    if bounded:
        tables.append(_against_bound(bounded, rows, protocol))
    if any(personal(row) for row in rows):
        tables.append(_exchange([row for row in rows if personal(row)], rows))
    return ResultTables(tables)


def label(strategy: str) -> str:
    """Name a strategy, saying which one is the bound."""
    return f"{strategy} (bound)" if strategy == BOUND else strategy


def percent(value: float | None) -> str:
    """Show a percentage, or a dash where the records do not allow it."""
    return "-" if value is None else f"{value:.1f}"


def amount(size: float) -> str:
    """Show a number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def sent(row: Row) -> str:
    """Show what one client sends; the bound pools records, which nobody could send."""
    return "-" if row["strategy"] == BOUND else amount(bytes_per_client(row, "up_bytes"))


def bytes_per_client(row: Row, way: str) -> float:
    """Return what one client sent, or was sent, on average over the whole run."""
    return float(row["payload"][way]) / max(1, int(row["clients"]))


def differing(rows: Rows) -> list[str]:
    """Name the counts of a round in which rows differ; what is swept has a column already."""
    return [
        count
        for count in _COUNTS
        if count != swept_key(rows) and len({row.get(count) for row in rows}) > 1
    ]


def counted(row: Row, count: str) -> str:
    """Show a count, or a dash where the row does not hold it."""
    return str(row.get(count, "-"))


def bases(rows: Rows) -> list[Row]:
    """Return rows whose measurements before editing are worth a line.

    One, unless the swept setting changes which records are measured: then one for every value.
    Nothing was edited, nothing was before.
    """
    firsts: list[Row] = []
    for row in rows:
        if row["edits"] and all(settings(row) != settings(known) for known in firsts):
            firsts.append(row)
    alike = all(row["base"] == firsts[0]["base"] for row in firsts)
    return firsts[:1] if alike else firsts


def _quality(rows: Rows, protocol: Protocol) -> Table:
    models = any(personal(row) for row in rows)
    said = [protocol.name] if protocol.name != "CounterFact" else []
    if models:
        said.append("each client's model on its own records; all: Score on everybody's")
    counts = differing(rows)
    titles = [*protocol.metrics.values(), *(["all"] if models else [])]
    titles += [*counts, "client sends", "s"]
    table = _table(rows, titles, "; ".join(said))
    starts = bases(rows)
    for row in starts:
        cells = [percent(row["base"].get(metric)) for metric in protocol.metrics]
        cells += [percent(row["base"].get(protocol.score))] if models else []
        variant = _variant(row, rows, value=len(starts) > 1, editor=False)
        table.add_row(BEFORE, *variant, *cells, *([""] * len(counts)), "", "", style="dim")
    for row in rows:
        cells = [percent(measured(row, OWN).get(metric)) for metric in protocol.metrics]
        cells += [percent(measured(row, ALL).get(protocol.score))] if models else []
        cells += [counted(row, count) for count in counts]
        cells += [sent(row), f"{row['seconds']['total']:.1f}"]
        style = "dim" if row["strategy"] == BOUND else ""
        table.add_row(label(row["strategy"]), *_variant(row, rows), *cells, style=style)
    return table


def _against_bound(bounded: Rows, rows: Rows, protocol: Protocol) -> Table:
    models = any(personal(row) for row in bounded)
    titles = [*protocol.summed.values(), *(["all"] if models else [])]
    table = _table(rows, titles, f"in percent of the bound ({BOUND})")
    for row in bounded:
        asked = [(metric, OWN) for metric in protocol.summed]
        asked += [(protocol.score, ALL)] if models else []
        cells = [percent(percent_of_bound(row, rows, metric, group)) for metric, group in asked]
        table.add_row(row["strategy"], *_variant(row, rows), *cells)
    return table


def _exchange(takers: Rows, rows: Rows) -> Table:
    titles = ["saved", "seconds saved", "seconds spent", "bytes each", "% taken", "overlap"]
    table = _table(rows, titles, "optimisations saved by taking over other clients' vectors")
    for row in takers:
        exchange = row["exchange"]
        each = exchange["bytes_per_saved"]
        table.add_row(
            row["strategy"],
            *_variant(row, rows),
            str(exchange["optimizations_saved"]),
            f"{exchange['seconds_saved']:.1f}",
            f"{exchange['seconds_spent']:.1f}",
            "-" if each is None else amount(each),
            percent(share_taken(row)),
            str(exchange["overlap"]),
        )
    return table


def _table(rows: Rows, titles: Iterable[str], said: str) -> Table:
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=said or None,
        title_justify="left",
        title_style="dim",
    )
    # Where the terminal is too narrow, a name breaks before a number is cut.
    table.add_column("strategy", overflow="fold", min_width=4)
    key = swept_key(rows)
    if has_editors(rows):
        table.add_column("editor", no_wrap=True)
    if key:
        table.add_column(swept_title(key), justify="right", no_wrap=True)
    for title in titles:
        # A long title stands on two lines, above narrow numbers.
        table.add_column(title.replace(" ", "\n"), justify="right", no_wrap=True, min_width=4)
    return table


def _variant(row: Row, rows: Rows, *, value: bool = True, editor: bool = True) -> list[str]:
    """Say what tells a row from others of its strategy, in the columns that there are."""
    key = swept_key(rows)
    cells = [row["editor"] if editor else ""] if has_editors(rows) else []
    return cells + ([shown(swept_value(row, key)) if value else ""] if key else [])

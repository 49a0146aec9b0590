"""Rows of results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

BOUND = "global"
QUALITY = {
    "score": "Score",
    "efficacy": "ES",
    "paraphrase": "PS",
    "neighborhood": "NS",
    "efficacy_top1": "EA",
    "paraphrase_top1": "PA",
    "neighborhood_top1": "NA",
    "same_subject": "same subject",
}


def result_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of a run or a comparison; the pooled bound is marked."""
    sweep = len({row["edits"] for row in rows}) > 1
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    titles = [*QUALITY.values(), "up/client", "s"]
    for title in ["edits", *titles] if sweep else titles:
        # Only "same subject" may break in two, which fits 80 columns.
        table.add_column(title, justify="right", no_wrap=" " not in title, min_width=4)
    for row in rows:
        cells = [label(row["strategy"])]
        if sweep:
            cells.append(str(row["edits"]))
        cells += [percent(row["final"].get(metric)) for metric in QUALITY]
        cells += [sent(row), f"{row['seconds']['total']:.1f}"]
        table.add_row(*cells, style="dim" if row["strategy"] == BOUND else "")
    return table


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


def sent(row: Mapping[str, Any]) -> str:
    """Show what one client sends; the bound pools records, which nobody could send."""
    return "-" if row["strategy"] == BOUND else amount(up_bytes_per_client(row))


def up_bytes_per_client(row: Mapping[str, Any]) -> float:
    """Return what one client sent on average over the whole run."""
    return float(row["payload"]["up_bytes"]) / max(1, int(row["clients"]))

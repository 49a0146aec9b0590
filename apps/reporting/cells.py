"""What the report's tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from fleke_flwr.apps.reporting.axes import color
from fleke_flwr.apps.results import (
    Row,
    Rows,
    has_editors,
    shown,
    swept_key,
    swept_title,
    swept_value,
)
from fleke_flwr.apps.tables import label

DASH = "&ndash;"


def grid(titled: str, body: str, caption: str, kind: str = "") -> str:
    """Return a table that scrolls where it is wider than the page.

    Parameters
    ----------
    titled, body : str
        Cells of its head, and its lines.
    caption : str
        What it shows, for those who come to it without the text around.
    kind : str
        Its class in the style sheet.
    """
    table = (
        f'<table class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{titled}</tr></thead><tbody>{body}</tbody></table>"
    )
    return f'<div class=wide tabindex=0 role=group aria-label="{escape(caption)}">{table}</div>'


def headings(titles: Iterable[str]) -> str:
    """Return the cells of a table's head."""
    return "".join(f"<th scope=col>{escape(title)}</th>" for title in titles)


def line(cells: Iterable[str], kind: str = "") -> str:
    """Return a line of cells that hold markup, the first of which names it.

    Parameters
    ----------
    cells : Iterable[str]
        Of any number.
    kind : str
        Its class in the style sheet.
    """
    first, *others = cells
    return (
        f"<tr{f' class={kind}' if kind else ''}><th scope=row>{first}</th>"
        + "".join(f"<td>{cell}</td>" for cell in others)
        + "</tr>"
    )


def strategy_cell(row: Row) -> str:
    """Return a strategy's name with its colour."""
    strategy = row["strategy"]
    return f'<i style="background:{color(strategy)}"></i>{escape(label(strategy))}'


def variant_cells(row: Row, rows: Rows) -> list[str]:
    """Return the cells that tell a row from others of its strategy."""
    key = swept_key(rows)
    cells = [row["editor"]] if has_editors(rows) else []
    cells += [shown(swept_value(row, key))] if key else []
    return [escape(cell) for cell in cells]


def variant_titles(rows: Rows) -> list[str]:
    """Return the titles of :func:`variant_cells`."""
    key = swept_key(rows)
    return (["editor"] if has_editors(rows) else []) + ([swept_title(key)] if key else [])


def interval(values: Mapping[str, float | None], metric: str) -> str:
    """Return a percentage with half of its 95 % interval."""
    value, half = values.get(metric), values.get(f"{metric}_ci95")
    shown_half = f" <small>± {half:.1f}</small>" if half and value is not None else ""
    return percentage(value) + shown_half


def percentage(value: float | None) -> str:
    """Return a percentage, or a dash where there is none."""
    return DASH if value is None else f"{value:.1f}"


def whole(value: int | None) -> str:
    """Return a count, or a dash where nobody counted."""
    return DASH if value is None else f"{value:,}"


def small(text: str) -> str:
    """Put a text, if there is one, under what a cell holds."""
    return f" <br><small>{escape(text)}</small>" if text else ""

"""Read what a report's page and the files beside it say."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path


class _Tables(HTMLParser):
    """Collect the text of every table cell, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def cells_of(markup: str) -> list[list[str]]:
    """Return the cells of all tables, row by row."""
    tables = _Tables()
    tables.feed(markup)
    return tables.rows


def numbers_in(path: Path) -> list[dict[str, str]]:
    """Return the lines of a CSV file."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))

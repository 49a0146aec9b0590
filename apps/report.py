"""One self-contained page per run: tables and pictures, light and dark, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from fleke_flwr.apps import report_conflict, report_memory, report_overlap, report_tables
from fleke_flwr.apps.report_figures import bytes_and_quality, phase_seconds, score_bars
from fleke_flwr.apps.report_metrics import protocol_of
from fleke_flwr.apps.report_picture import DARK, LIGHT, Picture
from fleke_flwr.apps.report_rounds import score_by_round, seconds_by_slot
from fleke_flwr.apps.report_style import PAGE
from fleke_flwr.apps.report_sweep import score_by_value
from fleke_flwr.apps.results import Rows, personal, read_rows, shown, swept_key, swept_value
from fleke_flwr.artifacts import write_text

# What the page says first: the run's configuration where it is known, else the first row.
_CONFIGURED = {
    "model": ("model.name", "model"),
    "records": ("data.path", "dataset"),
    "partition": ("data.partition", ""),
    "seed": ("seed", ""),
}
_IN_ROWS = ("clients", "rounds", "edits", "editor", "mode", "encoding")
_TAKING = ("rule", "exchange", "similarity", "alpha", "quantile", "noise")


def render(directory: Path) -> Path:
    """Write ``report.html``, with pictures and their numbers beside it in ``report/``.

    Parameters
    ----------
    directory : Path
        A finished run: ``comparison.json`` or ``metrics.json``, and perhaps ``manifest.json``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        If the directory holds no finished run.
    """
    rows = read_rows(directory)
    pictures = _pictures(rows)
    studies = _studies(rows)
    for picture in (*pictures, *(picture for _, picture, _ in studies if picture)):
        write_text(directory / "report" / f"{picture.name}.svg", picture.svg(LIGHT))
        write_text(directory / "report" / f"{picture.name}-dark.svg", picture.svg(DARK))
        write_text(directory / "report" / f"{picture.name}.csv", picture.csv())
    manifest = directory / "manifest.json"
    facts = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    drawn = [_section(picture.title, _picture(picture)) for picture in pictures]
    results = _section("Results", report_tables.results(rows))
    # The table of a sweep is long, and the picture says it at a glance.
    first = [drawn[0], results] if swept_key(rows) else [results, drawn[0]]
    sections = [_what(rows, facts), *first]
    sections += [
        _section(title, (_picture(picture) if picture else "") + table)
        for title, picture, table in studies
    ]
    sections += drawn[1:]
    if any(personal(row) for row in rows):
        sections.append(_section("Vectors taken over", report_tables.exchange(rows)))
    sections += [_section("Clients", report_tables.clients(rows)), _provenance(facts)]
    title = str(facts.get("config", {}).get("name") or directory.name)
    page = directory / "report.html"
    write_text(page, PAGE.format(title=escape(title), body="\n".join(sections)))
    return page


def _pictures(rows: Rows) -> list[Picture]:
    pictures = (
        score_by_value(rows) if swept_key(rows) else score_bars(rows),
        score_by_round(rows),
        seconds_by_slot(rows),
        bytes_and_quality(rows),
        phase_seconds(rows),
    )
    return [picture for picture in pictures if picture is not None]


def _studies(rows: Rows) -> list[tuple[str, Picture | None, str]]:
    """Return title, picture and table of what only some runs look into."""
    studies: list[tuple[str, Picture | None, str]] = []
    forgotten = report_memory.first_records(rows)
    if forgotten:
        studies.append((report_memory.TITLE, forgotten, report_memory.forgetting(rows)))
    if report_overlap.has_overlap(rows):
        found = report_overlap.key_overlap(rows)
        studies.append((report_overlap.TITLE, found, report_overlap.counts(rows)))
    if report_conflict.has_conflicts(rows):
        studies.append((report_conflict.TITLE, None, report_conflict.conflicts(rows)))
    return studies


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>"


def _picture(picture: Picture) -> str:
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(picture.svg(theme).encode()).decode()
        for theme in (LIGHT, DARK)
    )
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(picture.title)}"></picture>'
        f"<figcaption>{escape(picture.caption)} "
        f'<a href="report/{picture.name}.csv">numbers</a></figcaption></figure>'
    )


def _what(rows: Rows, facts: Mapping[str, Any]) -> str:
    config = facts.get("config", {})
    given = {
        name: config.get(key, rows[0].get(column)) for name, (key, column) in _CONFIGURED.items()
    }
    found = {name: ", ".join(dict.fromkeys(str(row[name]) for row in rows)) for name in _IN_ROWS}
    items = {**given, "protocol": protocol_of(rows).name, **found, **_chosen(rows, config)}
    skipped = facts.get("data", {}).get("skipped") or {}
    if skipped:
        items["records left out"] = ", ".join(f"{count} {why}" for why, count in skipped.items())
    body = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in items.items()
        if value is not None
    )
    return f"<section><dl>{body}</dl></section>"


def _chosen(rows: Rows, config: Mapping[str, Any]) -> dict[str, str]:
    """Say what was swept, and how vectors were exchanged if they were."""
    key = swept_key(rows)
    items = {}
    if key:
        values = dict.fromkeys(shown(swept_value(row, key)) for row in rows)
        items[f"swept: {key}"] = ", ".join(values)
    if any(personal(row) for row in rows):
        taking = {name: config.get(f"fededit.{name}") for name in _TAKING}
        text = ", ".join(
            f"{name} {shown(value)}"
            for name, value in taking.items()
            if value is not None and key != f"fededit.{name}" and (name, value) != ("quantile", -1)
        )
        items.update({"fededit": text} if text else {})
    return items


def _provenance(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    return _section(
        "Provenance",
        f"<details><summary>manifest.json</summary><pre>{escape(text)}</pre></details>",
    )

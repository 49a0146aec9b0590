"""One self-contained page per run: tables and pictures, light and dark, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fleke_flwr.apps.failed_edits import ANSWERS
from fleke_flwr.apps.reporting import (
    attenuation,
    clients,
    conflict,
    drift,
    failures,
    memory,
    overlap,
    payload,
    run,
    tables,
)
from fleke_flwr.apps.reporting.figures import bytes_and_quality, phase_seconds, score_bars
from fleke_flwr.apps.reporting.parts import Section, contents, folded, shown
from fleke_flwr.apps.reporting.picture import DARK, LIGHT, Picture
from fleke_flwr.apps.reporting.rounds import score_by_round, seconds_by_slot
from fleke_flwr.apps.reporting.style import PAGE
from fleke_flwr.apps.reporting.summary import summary
from fleke_flwr.apps.reporting.sweep import score_by_value
from fleke_flwr.apps.results import Rows, personal, read_rows, swept_key
from fleke_flwr.artifacts import write_text


def render(directory: Path, answers: Path | None = None) -> Path:
    """Write ``report.html``, with pictures and their numbers beside it in ``report/``.

    Parameters
    ----------
    directory : Path
        A finished run: ``comparison.json`` or ``metrics.json``, and perhaps ``manifest.json``.
    answers : Path, optional
        Where a client keeps its files, for its failed edits; the run's own ``answers`` if not
        given, which a simulation writes.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        If the directory holds no finished run, or a file of failed edits is damaged.
    """
    rows = read_rows(directory)
    manifest = directory / "manifest.json"
    facts = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    failed = failures.read_answers(answers or directory / ANSWERS)
    page = _Page(directory / "report")
    sections = [
        Section(run.TITLE, run.what_was_run(rows, facts)),
        *_quality(rows, failed, page),
        *_costs(rows, page),
        *_studies(rows, page),
        *_provenance(facts),
    ]
    title = str(facts.get("config", {}).get("name") or directory.name)
    content = PAGE.format(
        title=escape(title),
        summary=escape(summary(rows, facts)),
        contents=contents(sections),
        body="\n".join(section.markup() for section in sections),
    )
    path = directory / "report.html"
    write_text(path, content)
    return path


class _Page:
    """Puts pictures on the page, and beside it for other documents.

    Parameters
    ----------
    folder : Path
        Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def show(self, picture: Picture | None, *, titled: bool = False) -> str:
        """Return the markup of a picture; nothing where there is none."""
        if picture is None:
            return ""
        write_text(self._folder / f"{picture.name}.svg", picture.svg(LIGHT))
        write_text(self._folder / f"{picture.name}-dark.svg", picture.svg(DARK))
        write_text(self._folder / f"{picture.name}.csv", picture.csv())
        return shown(picture, picture.title if titled else "")


def _quality(
    rows: Rows, failed: Mapping[str, Sequence[failures.Failure]], page: _Page
) -> list[Section]:
    """Return what says how good the result is."""
    swept = bool(swept_key(rows))
    overview = score_by_value(rows) if swept else score_bars(rows)
    drawn = Section(overview.title, page.show(overview))
    results = Section("Results", tables.results(rows))
    # The table of a sweep is long, and the picture says it at a glance.
    sections = [drawn, results] if swept else [results, drawn]
    rounds = score_by_round(rows)
    if rounds is not None:
        sections.append(Section(rounds.title, page.show(rounds)))
    by_client = page.show(clients.score_by_client(rows))
    sections.append(Section(clients.TITLE, by_client + clients.client_scores(rows)))
    if failures.has_failures(rows):
        body = failures.failures(rows, failed)
        sections.append(Section(failures.TITLE, body))
    if drift.has_drift(rows):
        sections.append(Section(drift.TITLE, drift.drift(rows)))
    return sections


def _costs(rows: Rows, page: _Page) -> list[Section]:
    """Return what travels, and what takes how long."""
    sections = []
    if payload.has_payload(rows):
        body = payload.payload(rows) + page.show(bytes_and_quality(rows), titled=True)
        sections.append(Section(payload.TITLE, body))
    time = page.show(phase_seconds(rows), titled=True)
    slots = page.show(seconds_by_slot(rows), titled=True)
    return [*sections, Section("Time", time + slots)]


def _studies(rows: Rows, page: _Page) -> list[Section]:
    """Return what only some runs look into."""
    sections = []
    forgotten = memory.first_records(rows)
    if forgotten:
        body = page.show(forgotten) + memory.forgetting(rows)
        sections.append(Section(memory.TITLE, body))
    worn = attenuation.attenuation(rows)
    if worn:
        sections.append(Section(attenuation.TITLE, page.show(worn)))
    if overlap.has_overlap(rows):
        body = page.show(overlap.key_overlap(rows)) + overlap.counts(rows)
        sections.append(Section(overlap.TITLE, body))
    if conflict.has_conflicts(rows):
        sections.append(Section(conflict.TITLE, conflict.conflicts(rows)))
    if any(personal(row) for row in rows):
        sections.append(Section("Vectors taken over", tables.exchange(rows)))
    return sections


def _provenance(facts: Mapping[str, Any]) -> list[Section]:
    if not facts:
        return []
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    return [Section("Provenance", folded("manifest.json", f"<pre>{escape(text)}</pre>"))]

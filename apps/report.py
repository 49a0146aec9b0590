"""One self-contained page per run: tables and pictures, light and dark, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fleke_flwr.apps.report_figures import (
    bytes_and_quality,
    color,
    phase_seconds,
    score_bars,
    score_by_edits,
    score_by_round,
)
from fleke_flwr.apps.report_picture import DARK, LIGHT, Picture
from fleke_flwr.apps.report_style import PAGE
from fleke_flwr.apps.results import read_rows
from fleke_flwr.apps.tables import BOUND, QUALITY, label, sent
from fleke_flwr.artifacts import write_text

Row = Mapping[str, Any]
_PROTOCOL = (
    "CounterFact protocol. ES, PS, NS: share of prompts on which the wanted answer is the more "
    "probable one (edit prompt, paraphrases, neighbourhood). Score: their harmonic mean. "
    "EA, PA, NA: the wanted answer is the model's first choice. Same subject: the first choice is "
    "right on the subject's other facts. Percentages; ± is half of the 95 % interval over records."
)
_FACTS = {
    "model": "model.name",
    "records": "data.path",
    "partition": "data.partition",
    "clients": "clients",
    "rounds": "rounds",
    "editor": "editor",
    "mode": "mode",
    "encoding": "encoding",
    "seed": "seed",
}


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
    for picture in pictures:
        write_text(directory / "report" / f"{picture.name}.svg", picture.svg(LIGHT))
        write_text(directory / "report" / f"{picture.name}-dark.svg", picture.svg(DARK))
        write_text(directory / "report" / f"{picture.name}.csv", picture.csv())
    manifest = directory / "manifest.json"
    facts = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    sections = [
        _what(rows, facts),
        _section("Results", _table(rows) + f"<p class=note>{escape(_PROTOCOL)}</p>"),
        *(_section(picture.title, _picture(picture)) for picture in pictures),
        _section("Clients", _clients(rows)),
        _provenance(facts),
    ]
    title = str(facts.get("config", {}).get("name") or directory.name)
    page = directory / "report.html"
    write_text(page, PAGE.format(title=escape(title), body="\n".join(sections)))
    return page


def _pictures(rows: Sequence[Row]) -> list[Picture]:
    sweep = len({row["edits"] for row in rows}) > 1
    pictures = [score_by_edits(rows) if sweep else score_bars(rows)]
    if any(len(row["history"]) > 1 for row in rows):
        pictures.append(score_by_round(rows))
    if any(row["payload"]["up_bytes"] for row in rows if row["strategy"] != BOUND):
        pictures.append(bytes_and_quality(rows))
    return [*pictures, phase_seconds(rows)]


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


def _what(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    first = rows[0]
    config = facts.get("config", {})
    shown = {
        name: config.get(key, first.get({"model": "model", "records": "dataset"}.get(name, name)))
        for name, key in _FACTS.items()
    }
    shown["edits"] = ", ".join(str(count) for count in sorted({row["edits"] for row in rows}))
    skipped = facts.get("data", {}).get("skipped") or {}
    if skipped:
        shown["records left out"] = ", ".join(f"{count} {why}" for why, count in skipped.items())
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in shown.items()
        if value is not None
    )
    return f"<section><dl>{items}</dl></section>"


def _table(rows: Sequence[Row]) -> str:
    head = "".join(
        f"<th>{escape(title)}</th>"
        for title in ("strategy", "edits", *QUALITY.values(), "up/client", "s")
    )
    before = rows[0]["base"]
    before_cells = "".join(f"<td>{_interval(before, metric)}</td>" for metric in QUALITY)
    body = f"<tr class=base><td>before editing</td><td></td>{before_cells}{'<td></td>' * 2}</tr>"
    for row in rows:
        cells = [
            _name(row["strategy"]),
            str(row["edits"]),
            *(_interval(row["final"], metric) for metric in QUALITY),
            sent(row),
            f"{row['seconds']['total']:.1f}",
        ]
        kind = " class=bound" if row["strategy"] == BOUND else ""
        body += f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return _grid(head, body)


def _clients(rows: Sequence[Row]) -> str:
    clients = sorted({entry["client"] for row in rows for entry in row["per_client"]})
    most = max(row["edits"] for row in rows)
    shown = [row for row in rows if row["edits"] == most]
    head = "<th>client</th><th>edits</th>" + "".join(
        f"<th>{_name(row['strategy'])}</th>" for row in shown
    )
    body = ""
    for client in clients:
        entries = [
            next((entry for entry in row["per_client"] if entry["client"] == client), None)
            for row in shown
        ]
        edits = next((entry["edits"] for entry in entries if entry), 0)
        scores = "".join(
            f"<td>{_interval(entry, 'score') if entry else 'left out'}</td>" for entry in entries
        )
        body += f"<tr><td>{client}</td><td>{edits}</td>{scores}</tr>"
    return (
        f"<p class=note>Score of the merged model on each client's own records, {most} edits.</p>"
        + _grid(head, body)
    )


def _grid(head: str, body: str) -> str:
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=wide>{table}</div>"


def _provenance(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    return _section(
        "Provenance",
        f"<details><summary>manifest.json</summary><pre>{escape(text)}</pre></details>",
    )


def _name(strategy: str) -> str:
    return f'<i style="background:{color(strategy)}"></i>{escape(label(strategy))}'


def _interval(values: Mapping[str, Any], metric: str) -> str:
    value, half = values.get(metric), values.get(f"{metric}_ci95")
    if value is None:
        return "&ndash;"
    return f"{value:.1f}" + (f" <small>± {half:.1f}</small>" if half else "")

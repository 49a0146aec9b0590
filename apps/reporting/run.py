"""The report's section on what was run: settings, versions, and who was left out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fleke_flwr.apps.reporting.axes import variant_called
from fleke_flwr.apps.reporting.cells import DASH, grid, headings, line
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.reporting.parts import folded
from fleke_flwr.apps.results import Rows, personal, shown, swept_key, swept_value
from fleke_flwr.config import RunConfig

TITLE = "What was run"
# What the page says first: the run's configuration where it is known, else the first row.
_CONFIGURED = {
    "model": ("model.name", "model"),
    "records": ("data.path", "dataset"),
    "partition": ("data.partition", ""),
    "seed": ("seed", ""),
}
_IN_ROWS = ("clients", "rounds", "edits", "editor", "mode", "encoding")
_TAKING = ("rule", "exchange", "similarity", "alpha", "quantile", "noise")
# Where things lie says nothing about the run.
_PLACES = ("name", "output-dir", "cache-dir", "resume")
_LEFT_OUT = (
    "Their edits of that round are not in the result. An evaluation that failed leaves only the "
    "measurements out."
)


def what_was_run(rows: Rows, facts: Mapping[str, Any]) -> str:
    """Return the facts of the run, who was left out, and what differs from the defaults."""
    items = _facts(rows, facts)
    body = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in items.items()
        if value is not None
    )
    return f"<dl>{body}</dl>{_missing(rows, facts)}{_settings(facts)}{_versions(facts)}"


def left_out(rows: Rows) -> list[tuple[str, int, int, str]]:
    """Return who was left out: variant, round, client and the reason."""
    return [
        (variant_called(row, rows), entry["round"], int(client), str(why))
        for row in rows
        for entry in row["history"]
        for client, why in (entry.get("left_out") or {}).items()
    ]


def _facts(rows: Rows, facts: Mapping[str, Any]) -> dict[str, Any]:
    config = facts.get("config", {})
    given = {
        name: config.get(key, rows[0].get(column)) for name, (key, column) in _CONFIGURED.items()
    }
    found = {name: ", ".join(dict.fromkeys(str(row[name]) for row in rows)) for name in _IN_ROWS}
    items = {**given, "protocol": protocol_of(rows).name, **found, **_chosen(rows, config)}
    skipped = facts.get("data", {}).get("skipped") or {}
    if skipped:
        items["records left out"] = ", ".join(f"{count} {why}" for why, count in skipped.items())
    return items


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


def _missing(rows: Rows, facts: Mapping[str, Any]) -> str:
    """Return who did not take part, and why; a sentence where everybody did."""
    refused = [str(why) for why in facts.get("refused") or []]
    missing = left_out(rows)
    if not refused and not missing:
        return "<p class=note>No client was left out.</p>"
    lines = [line([DASH, DASH, DASH, escape(f"refused at the start: {why}")]) for why in refused]
    lines += [
        line([str(client), escape(variant), str(number), escape(why)])
        for variant, number, client, why in missing
    ]
    titled = headings(("client", "strategy", "round", "why"))
    table = grid(titled, "".join(lines), "Clients that were left out", "words")
    return f"{table}<p class=note>{escape(_LEFT_OUT)}</p>"


def _settings(facts: Mapping[str, Any]) -> str:
    config: Mapping[str, Any] = facts.get("config", {})
    defaults = RunConfig().to_flat()
    changed = {
        key: value
        for key, value in config.items()
        if key not in _PLACES and value != defaults.get(key)
    }
    if not changed:
        return ""
    body = "".join(
        line([escape(key), escape(shown(value)), escape(_default(defaults.get(key)))])
        for key, value in changed.items()
    )
    titled = headings(("setting", "value", "default"))
    table = grid(titled, body, "All others have their defaults", "words narrow")
    return folded(f"Settings that differ from the defaults ({len(changed)})", table)


def _default(value: Any) -> str:
    """Write a default, whose empty text and -1 mean that it is not set."""
    return "not set" if value in (None, "", -1) else shown(value)


def _versions(facts: Mapping[str, Any]) -> str:
    versions = dict(facts.get("versions") or {})
    for name in ("model", "data"):
        if facts.get(name, {}).get("fingerprint"):
            versions[f"fingerprint of the {name}"] = facts[name]["fingerprint"]
    if facts.get("revision"):
        versions["git revision"] = facts["revision"]
    if not versions:
        return ""
    body = "".join(line([escape(str(k)), escape(str(v))]) for k, v in versions.items())
    table = grid(headings(("what", "version")), body, "What has computed this", "words narrow")
    return folded("Versions and fingerprints", table)

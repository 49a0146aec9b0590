"""The sentences on top of the report, which say a run without its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleke_flwr.apps.reporting.drift import change_of
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.reporting.run import left_out
from fleke_flwr.apps.results import (
    BOUND,
    EDITS,
    OWN,
    Row,
    Rows,
    at_value,
    last_value,
    measured,
    percent_of_bound,
    swept_key,
    swept_value,
)
from fleke_flwr.apps.tables import amount, bytes_per_client


def summary(rows: Rows, facts: Mapping[str, Any]) -> str:
    """Say what was done, how well it went, what it cost, and what it did to the rest."""
    latest = last_value(rows)
    best = _best(latest)
    said = [_done(rows, best), _reached(latest, best), _sent(best), _drifted(best)]
    out = {client for _, _, client, _ in left_out(rows)}
    refused = len(facts.get("refused") or [])
    if out or refused:
        said.append(f"Left out at least once: {_count(len(out) + refused, 'client')}.")
    return " ".join(sentence for sentence in said if sentence)


def _best(rows: Rows) -> Row:
    """Return the row with the highest score, of those that need no pooled records."""
    score = protocol_of(rows).score
    candidates = [row for row in rows if row["strategy"] != BOUND] or list(rows)
    return max(candidates, key=lambda row: measured(row, OWN).get(score) or 0.0)


def _done(rows: Rows, best: Row) -> str:
    ways = len({(row["strategy"], row["editor"]) for row in rows})
    who = str(best["strategy"]) if ways == 1 else f"{ways} ways of editing were compared: each"
    edits = "the same edits" if swept_key(rows) == EDITS else _count(best["edits"], "edit")
    held = f"held by {_count(best['clients'], 'client')}"
    text = f"{who} put {edits}, {held}, into the model {best['model']}"
    text += f" in {_count(best['rounds'], 'round')}"
    key = swept_key(rows)
    values = len({swept_value(row, key) for row in rows}) if key else 0
    return f"{text}, for {_count(values, 'value')} of {key}." if key else f"{text}."


def _reached(rows: Rows, best: Row) -> str:
    score = protocol_of(rows).score
    value, half = measured(best, OWN).get(score), measured(best, OWN).get(f"{score}_ci95")
    if value is None or not best["edits"]:
        return ""
    reached = f"{value:.1f}" + (f" ± {half:.1f}" if half else "") + " of 100"
    before = best["base"].get(score)
    since = "" if before is None else f" ({before:.1f} before editing)"
    whose = "Score is" if len(rows) == 1 else f"{best['strategy']} has the highest Score,"
    bound = percent_of_bound(best, rows, score)
    against = "" if bound is None else f", {bound:.1f} % of editing all records at one place"
    return f"{whose} {reached}{since}{against}{at_value(rows)}."


def _sent(best: Row) -> str:
    if best["strategy"] == BOUND or not best["payload"]["up_bytes"]:
        return ""
    sent = bytes_per_client(best, "up_bytes")
    paper = bytes_per_client(best, "up_bytes_paper")
    against = ""
    if paper:
        times = paper / sent
        said = f"{times:.0f} times less" if times >= 2 else f"{100 / times:.0f} %"
        against = f", {said} {'than' if times >= 2 else 'of'} the CollabEdit paper's payload"
    return f"Each client sent {amount(sent)}{against}."


def _drifted(best: Row) -> str:
    change = change_of(best)
    return f"Perplexity on text that nobody edited went from {change}." if change else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")

"""The report's section on conflicts: what settling them has changed (CollabEdit, table 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fleke_flwr.apps.reporting.cells import (
    grid,
    headings,
    interval,
    line,
    percentage,
    strategy_cell,
    variant_cells,
    variant_titles,
    whole,
)
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.results import Row, Rows

TITLE = "Conflicts"
# Counts of what the clients did, and what they mean.
_COUNTS = {
    "losers": "edits that their clients found not to have taken",
    "disputed": "questions among them that clients answer in different ways",
    "withdrawn": "edits that the policy decided against, taken back",
    "strengthened": "edits that it decided for, made again with added requests",
    "losers_after": "edits that had not taken once this was settled",
}
_MEASURES = {"margin": "Avg-dP", "pair_success": "Succ, pair", "top1_success": "Succ, top-1"}
_STATES = ("before", "after")
_NOTE = (
    "Avg-dP: mean probability of the wanted object minus that of the contradicting one, geometric "
    "means over tokens, in percent. Succ, pair: share of pairs in which it is positive. "
    "Succ, top-1: share in which greedy decoding gives the wanted object. Unrelated: Score on "
    "records that nobody disputes. The same pairs before and after; in brackets the change."
)


def has_conflicts(rows: Rows) -> bool:
    """Tell whether any row has looked for conflicts."""
    return any(row.get("conflicts") for row in rows)


def conflicts(rows: Rows) -> str:
    """Return what was found and done, and margins and successes before and after it."""
    found = [row for row in rows if row.get("conflicts")]
    counts = [count for count in _COUNTS if any(count in row["conflicts"] for row in found)]
    titles = [count.replace("_", " ") for count in counts]
    meaning = "; ".join(f"{count.replace('_', ' ')}: {_COUNTS[count]}" for count in counts)
    done = headings(["strategy", *variant_titles(rows), "policy", *titles])
    measured = headings(
        ["strategy", *variant_titles(rows), "", "pairs", *_MEASURES.values(), "unrelated"]
    )
    score = protocol_of(rows).score
    return (
        grid(done, "".join(_done(row, rows, counts) for row in found), "What was found and done")
        + f"<p class=note>{escape(meaning)}.</p>"
        + grid(
            measured,
            "".join(_measured(row, rows, score) for row in found),
            "Settled pairs and undisputed records, before and after",
        )
        + f"<p class=note>{escape(_NOTE)}</p>"
    )


def _done(row: Row, rows: Rows, counts: Sequence[str]) -> str:
    conflict = row["conflicts"]
    cells = [whole(conflict.get(count)) for count in counts]
    policy = escape(str(conflict["policy"]))
    return line([strategy_cell(row), *variant_cells(row, rows), policy, *cells])


def _measured(row: Row, rows: Rows, score: str) -> str:
    conflict = row["conflicts"]
    states = {state: conflict.get(state) or {} for state in _STATES}
    body = ""
    for state, values in states.items():
        first = state == _STATES[0]
        earlier = {} if first else states[_STATES[0]]
        called = [strategy_cell(row), *variant_cells(row, rows)]
        cells = [
            *(called if first else [""] * len(called)),
            state,
            whole(values.get("pairs")),
            *(_changed(values.get(key), earlier.get(key)) for key in _MEASURES),
            _unrelated(values, earlier, score),
        ]
        body += line(cells)
    return body


def _unrelated(values: Mapping[str, Any], earlier: Mapping[str, Any], score: str) -> str:
    now, then = values.get("unrelated") or {}, earlier.get("unrelated") or {}
    return interval(now, score) + _change(now.get(score), then.get(score))


def _changed(value: float | None, earlier: float | None) -> str:
    return percentage(value) + _change(value, earlier)


def _change(value: float | None, earlier: float | None) -> str:
    if value is None or earlier is None:
        return ""
    return f" <small>[{value - earlier:+.1f}]</small>"

"""The report's section on drift: what editing has done to everything else the model says."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from fleke_flwr.apps.drift import DRIFT
from fleke_flwr.apps.reporting.cells import (
    DASH,
    grid,
    headings,
    line,
    strategy_cell,
    variant_cells,
    variant_titles,
)
from fleke_flwr.apps.results import Row, Rows, personal

TITLE = "Drift"
_NOTE = (
    "Perplexity: how surprised the model is by text that nobody edited; lower is better, and a "
    "rise is damage. ± is half of the 95 % interval. Update: Frobenius norm of the change of an "
    "edited weight, relative to that of the weight itself; large is not bad by itself where "
    "perplexity stays."
)
_PERSONAL = "Models of the clients' own: mean over clients, as these have measured them."


def has_drift(rows: Rows) -> bool:
    """Tell whether any row says how far its model has moved."""
    return any(row.get(DRIFT) for row in rows)


def drift(rows: Rows) -> str:
    """Return perplexity before and after, and the size of the update in every edited module."""
    found = [row for row in rows if row.get(DRIFT)]
    modules = list(dict.fromkeys(name for row in found for name in row[DRIFT]["weights"]))
    titles = [
        "perplexity before",
        "after",
        "change",
        *(f"update, {name}" for name in _short(modules)),
    ]
    titled = headings(["strategy", *variant_titles(rows), *titles])
    body = "".join(
        line([strategy_cell(row), *variant_cells(row, rows), *_read(row), *_moved(row, modules)])
        for row in found
    )
    said = [_NOTE, *_sources(found)]
    if any(personal(row) for row in found):
        said.append(_PERSONAL)
    table = grid(titled, body, "How far the model has moved")
    return f"{table}<p class=note>{escape(' '.join(said))}</p>"


def change_of(row: Row) -> str:
    """Say the change of perplexity in words; empty where it was not measured."""
    read: dict[str, Any] = (row.get(DRIFT) or {}).get("perplexity") or {}
    if not read:
        return ""
    return f"{_number(read['before'])} to {_number(read['after'])} ({_change(read, 'percent')})"


def _read(row: Row) -> list[str]:
    read = row[DRIFT]["perplexity"]
    if not read:
        return [DASH] * 3
    after = escape(_number(read["after"]))
    return [escape(_number(read["before"])), after, escape(_change(read, "%"))]


def _change(read: dict[str, Any], unit: str) -> str:
    if read["change"] is None:
        return "beyond measure"
    half = read.get("change_ci95")
    return f"{read['change']:+.1f}" + (f" ± {half:.1f}" if half else "") + f" {unit}"


def _moved(row: Row, modules: Sequence[str]) -> list[str]:
    norms = row[DRIFT]["weights"]
    return [f"{norms[name]['relative']:.3g}" if name in norms else DASH for name in modules]


def _number(value: float | None) -> str:
    return (
        "no finite number" if value is None else f"{value:,.4g}" if value < 1e6 else f"{value:.1e}"
    )


def _sources(found: Rows) -> list[str]:
    """Name the texts that were read."""
    texts = {
        (read["text"] or "each client's text", read["tokens"] // read.get("clients", 1))
        for row in found
        if (read := row[DRIFT]["perplexity"])
    }
    if not texts:
        return ["No perplexity: no held-out text was at hand, or evaluation.text-tokens is 0."]
    return [f"Text: {name}, {tokens:,} tokens." for name, tokens in sorted(texts)]


def _short(modules: Sequence[str]) -> list[str]:
    """Call modules by what tells them apart, which mostly is the number of the layer."""
    parts = [name.split(".") for name in modules]
    same = {len(part) for part in parts}
    if len(parts) < 2 or len(same) > 1:
        return list(modules)
    kept = [
        ".".join(piece for piece, *others in zip(part, *parts, strict=True) if len({*others}) > 1)
        for part in parts
    ]
    return [f"layer {name}" if name.isdigit() else name for name in kept]

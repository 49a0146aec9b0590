"""Read the rows of a finished run, and relate them to one another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleke_flwr.errors import DataError
from fleke_flwr.values import Scalar

Row = Mapping[str, Any]
Rows = Sequence[Row]

BOUND = "global"
EDITS = "data.edits"
# Groups of records on which a row has measurements; only personal models answer them differently.
OWN, ALL, RECEIVED = "final", "final_all", "final_received"

# Names of the FedLEKE paper (arXiv 2502.15677), tables 1 to 3.
_PAPER_EDITORS = {"memit": "MEMIT", "pmet": "PMET"}
_PAPER_FORMS = {
    "fededit": "Fed{}",
    "fededit_no_condition": "Fed{} w/o Z",
    "edit_avg": "{}Avg",
    BOUND: "{}",
}


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a comparison, or the one of a run.

    Raises
    ------
    DataError
        If the directory holds no finished run.
    """
    comparison, metrics = directory / "comparison.json", directory / "metrics.json"
    for path in (comparison, metrics):
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                rows: list[dict[str, Any]] = content["rows"] if path == comparison else [content]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f"{path}: not a file of fleke-flwr ({error})") from error
            if not rows:
                raise DataError(f"{path}: holds no row; run the comparison again")
            if any(row.get("schema") != 1 for row in rows):
                raise DataError(f"{path}: another schema than 1; use the version that wrote it")
            return _with_settings(rows)
    raise DataError(
        f"{directory}: neither comparison.json nor metrics.json; "
        "name the directory of a finished run"
    )


def _with_settings(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say what was swept in rows that do not: at first only the number of edits could be."""
    several = len({row["edits"] for row in rows}) > 1
    return [{"settings": {EDITS: row["edits"]} if several else {}, **row} for row in rows]


def settings(row: Row) -> Mapping[str, Scalar]:
    """Return the swept setting with its value in this row; empty without a sweep."""
    found: Mapping[str, Scalar] = row.get("settings") or {}
    return found


def swept_key(rows: Rows) -> str:
    """Return the key that takes several values; empty without a sweep."""
    return next((key for row in rows for key in settings(row)), "")


def swept_value(row: Row, key: str) -> Scalar:
    """Return a row's value of the swept key."""
    value = settings(row)[key]
    # No number of edits means all of them, and how many these are only the row knows.
    return int(row["edits"]) if key == EDITS and not value else value


def swept_title(key: str) -> str:
    """Name a swept key in a column or on an axis."""
    return key.rpartition(".")[2]


def shown(value: Scalar) -> str:
    """Write a setting as it is written in a configuration."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def last_value(rows: Rows) -> list[Row]:
    """Return the rows of the sweep's last value; all rows without a sweep."""
    return [row for row in rows if settings(row) == settings(rows[-1])]


def at_value(rows: Rows) -> str:
    """Say at which value of a sweep rows are, for the end of a sentence that counts edits."""
    key = swept_key(rows)
    return "" if key in ("", EDITS) else f", {key} = {shown(swept_value(rows[0], key))}"


def has_editors(rows: Rows) -> bool:
    """Tell whether the rows differ in their editor."""
    return len({row["editor"] for row in rows}) > 1


def personal(row: Row) -> bool:
    """Tell whether each client ended with a model of its own."""
    return "exchange" in row


def measured(row: Row, group: str) -> Mapping[str, float | None]:
    """Return a row's measurements on a group of records; empty if there are none.

    Parameters
    ----------
    row : Row
        One variant.
    group : str
        ``OWN``, ``ALL`` or ``RECEIVED``. A shared model is measured by all clients together on
        their own records, and these are everybody's.
    """
    if group == ALL and not personal(row):
        group = OWN
    found: Mapping[str, float | None] = row.get(group) or {}
    return found


def bound_of(row: Row, rows: Rows) -> Row | None:
    """Return the pooled bound of the same editor and settings; the bound itself has none."""
    if row["strategy"] == BOUND:
        return None
    return next(
        (
            other
            for other in rows
            if other["strategy"] == BOUND
            and other["editor"] == row["editor"]
            and settings(other) == settings(row)
        ),
        None,
    )


def percent_of_bound(row: Row, rows: Rows, metric: str, group: str = OWN) -> float | None:
    """Return a measurement in percent of the bound's, the figure FedLEKE prints in brackets.

    Returns
    -------
    float or None
        ``None`` without a bound, if either was not measured, if the bound's is 0, and for received
        records, which the bound was not asked apart from the rest.
    """
    bound = bound_of(row, rows)
    if bound is None or group == RECEIVED:
        return None
    value, reference = measured(row, group).get(metric), measured(bound, group).get(metric)
    return None if value is None or not reference else 100 * value / reference


def share_taken(row: Row) -> float | None:
    """Return the percentage of the offered vectors that clients have taken."""
    exchange = row.get("exchange") or {}
    offered = exchange.get("received")
    return 100 * float(exchange["selected"]) / offered if offered else None


def paper_name(row: Row) -> str:
    """Return what the FedLEKE paper calls a strategy with its editor; empty if nothing."""
    editor, form = _PAPER_EDITORS.get(row["editor"]), _PAPER_FORMS.get(row["strategy"])
    return form.format(editor) if editor and form else ""

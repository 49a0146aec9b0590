"""The report's table of what travels, against what else could."""

from __future__ import annotations

from html import escape

from fleke_flwr.apps.reporting.cells import (
    DASH,
    grid,
    headings,
    line,
    strategy_cell,
    variant_cells,
    variant_titles,
)
from fleke_flwr.apps.results import BOUND, Row, Rows
from fleke_flwr.apps.tables import amount, bytes_per_client

TITLE = "Payload"
_NOTE = (
    "One client, over the whole run. The paper's payload: update and K Kᵀ of every edited layer, "
    "dense in float32, as CollabEdit describes it. Edited weights: every edited matrix in float32, "
    "as federated averaging would send it. The bound needs the records themselves and sends "
    "nothing that could be counted."
)
_REFERENCES = {"up_bytes_paper": "the paper's payload", "up_bytes_weights": "the edited weights"}


def payload(rows: Rows) -> str:
    """Return what one client sends and is sent, and its share of what it could have sent."""
    references = {
        key: title
        for key, title in _REFERENCES.items()
        if any(row["payload"].get(key) for row in rows)
    }
    titles = ["client sends", "client is sent", *(f"sent, of {t}" for t in references.values())]
    titled = headings(["strategy", *variant_titles(rows), *titles])
    body = "".join(
        line(
            [
                strategy_cell(row),
                *variant_cells(row, rows),
                *(_amount(row, way) for way in ("up_bytes", "down_bytes")),
                *(_share(row, key) for key in references),
            ]
        )
        for row in rows
    )
    table = grid(titled, body, "What one client sends and is sent")
    return f"{table}<p class=note>{escape(_NOTE)}</p>"


def has_payload(rows: Rows) -> bool:
    """Tell whether any client has sent anything."""
    return any(row["payload"]["up_bytes"] for row in rows)


def _amount(row: Row, way: str) -> str:
    return DASH if row["strategy"] == BOUND else amount(bytes_per_client(row, way))


def _share(row: Row, key: str) -> str:
    whole = row["payload"].get(key)
    if not whole or row["strategy"] == BOUND:
        return DASH
    share = 100 * row["payload"]["up_bytes"] / whole
    return f"{share:.1f} % <small>of {amount(bytes_per_client(row, key))}</small>"

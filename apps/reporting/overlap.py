"""The report's section on overlap: whose edits say what others' say already.

CollabEdit, eq. 6 and figure 3: of an edit that is known already hardly any residual is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from fleke_flwr.apps.reporting.axes import variant_called
from fleke_flwr.apps.reporting.cells import (
    DASH,
    grid,
    headings,
    line,
    strategy_cell,
    variant_cells,
    variant_titles,
    whole,
)
from fleke_flwr.apps.reporting.picture import DARK, Picture, Theme
from fleke_flwr.apps.results import Row, Rows

TITLE = "Overlap"
_ACROSS = 2
_WRITTEN = 20  # more clients than this have cells too small for numbers
_MIDDLE = 0.19  # luminance on which both writings stand out equally
_SHADE = {False: "#1f5fae", True: "#58a6ff"}
_NOTE = (
    "Known: edits of which less than the threshold of the residual was left on the shared model "
    "when their client looked. Skipped: known edits that were not sent. Residual left: mean of the "
    "edits that were looked at, relative to the base model's. One edit leaves: what the same edit, "
    "made once and alone, would leave of it."
)
# Means that newer rows hold beside the counts.
_MEANS = {"residual": "residual left", "predicted_residual": "one edit leaves"}


def key_overlap(rows: Rows) -> Picture | None:
    """How much of each client's key space lies in every other's; nothing if no row says it.

    Variants whose clients hold the same keys share a panel.
    """
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if (row.get("overlap") or {}).get("shared"):
            panels.setdefault(str(_matrix(row)), []).append(row)
    if not panels:
        return None
    grouped = list(panels.values())
    titles = [", ".join(variant_called(row, rows) for row in group) for group in grouped]
    data: list[dict[str, Any]] = [
        {"variants": title, "client": client, "other": other, "shared": value}
        for title, (row, *_) in zip(titles, grouped, strict=True)
        for client, line_ in zip(row["overlap"]["clients"], row["overlap"]["shared"], strict=True)
        for other, value in zip(row["overlap"]["clients"], line_, strict=True)
    ]
    count = max(len(row["overlap"]["clients"]) for (row, *_) in grouped)
    across = min(_ACROSS, len(grouped))
    down = -(-len(grouped) // across)

    def draw(figure: Figure, theme: Theme) -> None:
        every = figure.subplots(down, across, squeeze=False).ravel()
        for axes, title, (row, *_) in zip(every, titles, grouped, strict=False):
            _heat(axes, row, theme)
            if len(grouped) > 1:
                axes.set_title(title, fontsize=9.5, wrap=True)
        for axes in every[len(grouped) :]:
            axes.set_visible(False)

    height = min(4.6, 1.0 + 0.42 * count) + (0.4 if len(grouped) > 1 else 0.0)
    return Picture(
        "overlap",
        TITLE,
        "Per cent of the row's key space that lies in the column's, in the last round. "
        "A client without edits has no keys.",
        draw,
        (8.4, down * height),
        data,
    )


def counts(rows: Rows) -> str:
    """Return how many edits were known already, and how many were not sent for that."""
    found = [row for row in rows if row.get("overlap")]
    several = any(len(row["history"]) > 1 for row in found)
    body = ""
    for row in found:
        overlap = row["overlap"]
        cells = [str(overlap["threshold"])]
        cells += [whole(overlap.get(count)) for count in ("looked_at", "known", "skipped")]
        cells += [_mean(overlap.get(key)) for key in _MEANS]
        cells += [_by_round(row)] if several else []
        body += line([strategy_cell(row), *variant_cells(row, rows), *cells])
    titles = [
        "threshold",
        "looked at",
        "known",
        "skipped",
        *_MEANS.values(),
        *(["known, by round"] if several else []),
    ]
    titled = headings(["strategy", *variant_titles(rows), *titles])
    table = grid(titled, body, "Edits that the shared model knew already")
    return f"{table}<p class=note>{escape(_NOTE)}</p>"


def has_overlap(rows: Rows) -> bool:
    """Tell whether any row's clients have looked for known edits."""
    return any(row.get("overlap") for row in rows)


def _mean(value: float | None) -> str:
    return DASH if value is None else f"{value:.2g}"


def _by_round(row: Row) -> str:
    known = [(entry.get("counts") or {}).get("known") for entry in row["history"]]
    texts = [DASH if value is None else f"{value:g}" for value in known]
    return f"<span class=list>{' '.join(texts)}</span>"


def _matrix(row: Row) -> tuple[Sequence[Any], Sequence[Any]]:
    return row["overlap"]["clients"], row["overlap"]["shared"]


def _heat(axes: Axes, row: Row, theme: Theme) -> None:
    clients, shared = _matrix(row)
    values = np.array(shared, dtype=float)  # a client without edits has None, here NaN
    shades = LinearSegmentedColormap.from_list("shared", [theme.grid, _SHADE[theme is DARK]])
    image = axes.pcolormesh(np.ma.masked_invalid(values), cmap=shades, vmin=0.0, vmax=1.0)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    if len(clients) <= _WRITTEN:
        _write(axes, shades, values, theme)
    else:
        axes.figure.colorbar(image, ax=axes, shrink=0.8)
    step = -(-len(clients) // _WRITTEN)
    named = [(place + 0.5, str(client)) for place, client in enumerate(clients)][::step]
    axes.set_xticks(*map(list, zip(*named, strict=True)))
    axes.set_yticks(*map(list, zip(*named, strict=True)))
    axes.set_anchor("W")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("lies in the key space of client")
    axes.set_ylabel("keys of client")


def _write(
    axes: Axes, shades: Colormap, values: np.ndarray[Any, np.dtype[Any]], theme: Theme
) -> None:
    size = 9.0 if len(values) <= 10 else 6.5
    for (place, other), value in np.ndenumerate(values):
        missing = bool(np.isnan(value))
        axes.annotate(
            "-" if missing else f"{100 * value:.0f}",
            (other + 0.5, place + 0.5),
            ha="center",
            va="center",
            fontsize=size,
            color=theme.text if missing else _readable(shades(float(value))),
        )


def _readable(background: Sequence[float]) -> str:
    """Return dark or light, whichever stands out more (the contrast ratio of WCAG 2)."""
    red, green, blue = (((part + 0.055) / 1.055) ** 2.4 for part in background[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#0d1117" if luminance > _MIDDLE else "#ffffff"

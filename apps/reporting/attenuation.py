"""The report's picture of knowledge attenuation: what sequential edits leave of earlier ones.

AdaPLE's question, asked of a sweep over a fusion rule's parameter or over the rules.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fleke_flwr.apps.reporting.axes import variant_called, variant_strokes
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.reporting.picture import Picture, Theme
from fleke_flwr.apps.results import Rows, swept_key

TITLE = "Attenuation"
_PANELS = {"first": "the records of round 1", "all": "all records so far"}
_STRICT = "efficacy_top1"


def attenuation(rows: Rows) -> Picture | None:
    """Efficacy on the records of round 1, and on all so far, after each round: a line per variant.

    Nothing if the sweep is not over a key of ``[fusion]``, or measured one round only.
    """
    if not swept_key(rows).startswith("fusion."):
        return None
    protocol = protocol_of(rows)
    metric = _STRICT if _STRICT in protocol.metrics else next(iter(protocol.parts))
    names = [variant_called(row, rows) for row in rows]
    strokes = variant_strokes(rows)
    data: list[dict[str, Any]] = [
        {
            "variant": called,
            "round": record["round"],
            "first": (record.get("first") or {}).get(metric),
            "all": (record.get("quality") or {}).get(metric),
        }
        for called, row in zip(names, rows, strict=True)
        for record in row["history"]
    ]
    data = [item for item in data if item["first"] is not None and item["all"] is not None]
    if len({item["round"] for item in data}) < 2:
        return None

    def draw(figure: Figure, theme: Theme) -> None:
        every = figure.subplots(1, 2, sharey=True)
        for axes, (column, title) in zip(every, _PANELS.items(), strict=True):
            for called, stroke in zip(names, strokes, strict=True):
                items = [item for item in data if item["variant"] == called]
                places = [item["round"] for item in items]
                values = [item[column] for item in items]
                label = called if column == "first" else None
                axes.plot(places, values, label=label, markersize=3.5, **stroke)
            axes.set_ylim(-4, 104)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(visible=True, linewidth=0.6)
            axes.set_xlabel("round")
            axes.set_title(title, fontsize=9.5)
        every[0].set_ylabel(f"{protocol.metrics[metric]} (%)")
        figure.legend(loc="outside right center", fontsize=8.5, handlelength=3.2)

    return Picture(
        "attenuation",
        TITLE,
        f"{protocol.metrics[metric]} after each round: how much of what was written in round 1 is "
        "still there after the rounds that follow, and how much of everything written so far.",
        draw,
        (8.8, 3.2),
        data,
    )

"""The report's pictures of a run over its rounds, which are the time slots of FedEdit."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fleke_flwr.apps.reporting.axes import called, identity, lines
from fleke_flwr.apps.reporting.figures import PHASES
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.reporting.picture import Picture, Theme
from fleke_flwr.apps.results import Rows, last_value, personal

_ACROSS = 4
# What a slot costs its clients; measuring is not part of the method.
_WORK = ("targets", "statistics", "reedit")


def score_by_round(rows: Rows) -> Picture | None:
    """Score after each round that was measured; nothing if no strategy has two of them."""
    rows = last_value(rows)
    score = protocol_of(rows).score
    data: list[dict[str, Any]] = [
        {
            **identity(row, rows),
            "round": record["round"],
            "score": (record.get("quality") or {}).get(score),
        }
        for row in rows
        for record in row["history"]
    ]
    known = [called(item) for item in data if item["score"] is not None]
    if len(known) == len(set(known)):
        return None

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        lines(axes, data, "round", "score")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("round")
        axes.set_ylabel("Score (%)")
        figure.legend(loc="outside right center", fontsize=8.5, handlelength=3.2)

    return Picture(
        "rounds",
        "Score after each round",
        "Measured on everything that the client asked has edited so far, where a round was "
        "measured at all. Dashed: the pooled bound.",
        draw,
        (8.4, 3.2),
        data,
    )


def seconds_by_slot(rows: Rows) -> Picture | None:
    """Seconds of each time slot by phase; nothing without models of the clients' own and slots."""
    rows = [row for row in last_value(rows) if personal(row) and len(row["history"]) > 1]
    if not rows:
        return None
    data = [
        {
            **identity(row, rows),
            "slot": record["round"],
            **{phase: record["seconds"].get(phase, 0.0) for phase in _WORK},
        }
        for row in rows
        for record in row["history"]
    ]
    names = list(dict.fromkeys(map(called, data)))
    down = -(-len(names) // _ACROSS)

    def draw(figure: Figure, theme: Theme) -> None:
        across = min(_ACROSS, len(names))
        every = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes, name in zip(every, names, strict=False):
            items = [item for item in data if called(item) == name]
            slots = [item["slot"] for item in items]
            start = [0.0] * len(items)
            for phase in _WORK:
                heights = [float(item[phase]) for item in items]
                axes.bar(slots, heights, bottom=start, color=PHASES[phase], label=phase)
                start = [a + b for a, b in zip(start, heights, strict=True)]
            axes.set_title(name.replace(", ", "\n"), fontsize=9.5)
            axes.set_xlabel("slot")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
            axes.grid(visible=True, axis="y", linewidth=0.6)
        for axes in every[len(names) :]:
            axes.set_visible(False)
        figure.axes[0].set_ylabel("seconds")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5)

    return Picture(
        "slots",
        "Seconds of each time slot",
        "Summed over clients, measuring left out. Target vectors that another strategy has "
        "optimised before are reused.",
        draw,
        (8.4 if len(names) > 1 else 5.0, 0.4 + 2.7 * down),
        data,
    )

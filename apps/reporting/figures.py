"""The report's pictures of a comparison: scores, bytes, seconds."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fleke_flwr.apps.reporting.axes import bars, bounds, called, color, identity, rings
from fleke_flwr.apps.reporting.metrics import Protocol, protocol_of
from fleke_flwr.apps.reporting.picture import Picture, Theme
from fleke_flwr.apps.results import (
    ALL,
    BOUND,
    OWN,
    Rows,
    at_value,
    last_value,
    measured,
    personal,
    shown,
    swept_key,
    swept_title,
    swept_value,
)
from fleke_flwr.apps.tables import amount, bytes_per_client

PHASES = {
    "overlap": "#ee6677",
    "targets": "#4477aa",
    "statistics": "#66ccee",
    "reedit": "#aa3377",
    "aggregate": "#228833",
    "evaluate": "#ccbb44",
}


def panels(rows: Rows, protocol: Protocol) -> dict[str, tuple[str, str, str]]:
    """Return what the two panels of a picture show: column, title, group and metric.

    Models of the clients' own are asked on their own records and on everybody's. A shared model
    knows both alike; then the second panel shows what Score does not see.
    """
    score = ("Score", OWN, protocol.score)
    if any(personal(row) for row in rows):
        return {
            "score": ("Score, own records", *score[1:]),
            "score_all": ("Score, everybody's records", ALL, protocol.score),
        }
    if "same_subject" not in protocol.metrics:
        return {"score": score}
    return {"score": score, "same_subject": ("Same subject's other facts", OWN, "same_subject")}


def score_bars(rows: Rows) -> Picture:
    """Score per strategy against the pooled bound: own and all records, or same subject."""
    protocol = protocol_of(rows)
    shows = panels(rows, protocol)
    data = [
        {
            **identity(row, rows),
            **{
                f"{column}{suffix}": measured(row, group).get(f"{metric}{suffix}")
                for column, (_, group, metric) in shows.items()
                for suffix in ("", "_ci95")
            },
        }
        for row in rows
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        every = figure.subplots(1, len(shows), sharey=True, squeeze=False)[0]
        for axes, (column, (title, *_)) in zip(every, shows.items(), strict=True):
            bars(axes, data, column, theme)
            axes.set_xlabel(f"{title} (%)")

    bounded = any(row["strategy"] == BOUND for row in rows)
    dashed = "Dashed: editing all clients' records at one place. " if bounded else ""
    return Picture(
        "score",
        "Score against the bound" if bounded else "Score",
        dashed + _explained(protocol, shows),
        draw,
        (8.4, 0.9 + 0.38 * len(rows)),
        data,
    )


def bytes_and_quality(rows: Rows) -> Picture | None:
    """Score against what a client sends; nothing if no client sends, or none was measured."""
    score = protocol_of(rows).score
    key = swept_key(rows)
    data = [
        {
            **identity(row, rows),
            **({swept_title(key): shown(swept_value(row, key))} if key else {}),
            "up_bytes_per_client": round(bytes_per_client(row, "up_bytes")),
            "score": measured(row, OWN).get(score),
        }
        for row in rows
        if row["payload"]["up_bytes"] > 0 and row["strategy"] != BOUND
    ]
    data = [item for item in data if item["score"] is not None]
    if not data:
        return None

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        rings(axes, data, "up_bytes_per_client", "score")
        _references(axes, rows, score, theme)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: amount(size)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
        axes.set_ylim(-8, 108)
        axes.grid(visible=True, which="major", linewidth=0.6)
        axes.set_xlabel("sent by one client over the whole run (logarithmic)")
        axes.set_ylabel("Score, own records (%)")
        figure.legend(loc="outside right center", fontsize=8.5, labelspacing=0.9)

    return Picture(
        "bytes",
        "Bytes against quality",
        "Up and to the left is better. Dotted: the payload the CollabEdit paper sends. Dashed: "
        "the bound, which needs the records themselves and exists in simulation only.",
        draw,
        (8.4, 3.2),
        data,
    )


def phase_seconds(rows: Rows) -> Picture:
    """Seconds of each phase, at the sweep's last value."""
    rows = last_value(rows)
    data = [
        {
            **identity(row, rows),
            "edits": row["edits"],
            **{phase: row["seconds"].get(phase, 0.0) for phase in PHASES},
        }
        for row in rows
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        start = [0.0] * len(data)
        for phase, shade in PHASES.items():
            widths = [float(item[phase]) for item in data]
            if not any(widths):
                continue
            axes.barh(range(len(data)), widths, left=start, color=shade, label=phase, height=0.62)
            start = [a + b for a, b in zip(start, widths, strict=True)]
        axes.set_yticks(range(len(data)), [called(item) for item in data])
        axes.invert_yaxis()
        axes.grid(visible=True, axis="x", linewidth=0.6)
        most = max(row["edits"] for row in rows)
        axes.set_xlabel(f"seconds, summed over clients, {most} edits{at_value(rows)}")
        if axes.patches:
            figure.legend(loc="outside upper center", ncols=len(PHASES), fontsize=8.5)

    return Picture(
        "seconds",
        "Seconds per phase",
        "Target vectors are optimised once and reused by the strategies that follow, so the first "
        "strategy that needs them pays for all.",
        draw,
        (8.4, 1.2 + 0.34 * len(data)),
        data,
    )


def _explained(protocol: Protocol, shows: dict[str, tuple[str, str, str]]) -> str:
    *first, last = protocol.parts.values()
    text = f"Score is the harmonic mean of {', '.join(first)} and {last}"
    if "same_subject" in shows:
        return f"{text}; the right panel shows what it does not see: the subjects' other facts."
    return f"{text}, by token." if protocol.score.endswith("_tokens") else f"{text}."


def _references(axes: Axes, rows: Rows, score: str, theme: Theme) -> None:
    latest = last_value(rows)
    data = [{**identity(row, rows), "score": measured(row, OWN).get(score)} for row in latest]
    bounds(axes.axhline, data, "score", color(BOUND))
    paper = max(row["payload"]["up_bytes_paper"] / row["clients"] for row in rows)
    if paper:
        axes.axvline(paper, color=theme.text, linestyle=":", linewidth=1, label="paper")

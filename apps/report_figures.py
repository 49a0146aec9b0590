"""The report's pictures: one style, one colour per strategy, drawn for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fleke_flwr.apps.report_picture import Picture, Theme
from fleke_flwr.apps.tables import BOUND, amount, label, up_bytes_per_client

Rows = Sequence[Mapping[str, Any]]

PHASES = {
    "targets": "#4477aa",
    "statistics": "#66ccee",
    "aggregate": "#228833",
    "evaluate": "#ccbb44",
}
_STRATEGIES = {
    "collabedit": "#1f77d0",
    BOUND: "#8c8c8c",
    "task_arithmetic": "#e08a00",
    "ties": "#c65aa0",
    "simple_average": "#1a9e77",
    "edit_avg": "#d1495b",
}
_OTHERS = ("#7a5195", "#008b8b", "#a0522d", "#6b8e23", "#4b5cc4")


def color(strategy: str) -> str:
    """Return a strategy's colour, the same in every picture and every report."""
    return _STRATEGIES.get(strategy) or _OTHERS[sum(strategy.encode()) % len(_OTHERS)]


def score_bars(rows: Rows) -> Picture:
    """Score and same-subject recall per strategy, against the pooled bound."""
    data = [
        {
            "strategy": row["strategy"],
            **{
                key: row["final"].get(key)
                for key in ("score", "score_ci95", "same_subject", "same_subject_ci95")
            },
        }
        for row in rows
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, key, title in (
            (left, "score", "Score"),
            (right, "same_subject", "Same subject's other facts"),
        ):
            _bars(axes, data, key, theme)
            axes.set_xlabel(f"{title} (%)")

    return Picture(
        "score",
        "Score against the bound",
        "Dashed: editing all clients' records at one place. Score is the harmonic mean of ES, PS "
        "and NS; the right panel shows what it does not see: the subjects' other facts.",
        draw,
        (8.4, 0.9 + 0.38 * len(rows)),
        data,
    )


def score_by_edits(rows: Rows) -> Picture:
    """Score against the number of edits, one line per strategy."""
    data = [
        {
            "strategy": row["strategy"],
            "edits": row["edits"],
            "score": row["final"].get("score"),
            "same_subject": row["final"].get("same_subject"),
        }
        for row in rows
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        for axes, key, title in zip(
            figure.subplots(1, 2, sharey=True),
            ("score", "same_subject"),
            ("Score", "Same subject's other facts"),
            strict=True,
        ):
            _lines(axes, data, "edits", key)
            axes.set_title(f"{title} (%)", fontsize=9.5)
            axes.set_xlabel("edits in total")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=8.5)

    return Picture(
        "edits",
        "Score against the number of edits",
        "Dashed: the pooled bound. Beyond what the edited layers can hold every line falls: "
        "that is the model's limit.",
        draw,
        (8.4, 3.4),
        data,
    )


def score_by_round(rows: Rows) -> Picture:
    """Score after each round, one line per strategy."""
    data = [
        {
            "strategy": row["strategy"],
            "round": record["round"],
            "score": record["quality"].get("score"),
        }
        for row in rows
        for record in row["history"]
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        _lines(axes, data, "round", "score")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("round")
        axes.set_ylabel("Score (%)")
        axes.legend(fontsize=8.5)

    return Picture(
        "rounds",
        "Score after each round",
        "Measured on everything edited so far. Dashed: the pooled bound.",
        draw,
        (6.0, 3.2),
        data,
    )


def bytes_and_quality(rows: Rows) -> Picture:
    """Score against what a client sends."""
    data = [
        {
            "strategy": row["strategy"],
            "edits": row["edits"],
            "up_bytes_per_client": round(up_bytes_per_client(row)),
            "score": row["final"].get("score"),
        }
        for row in rows
        if row["payload"]["up_bytes"] > 0 and row["strategy"] != BOUND
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        _rings(axes, data)
        _references(axes, rows, theme)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: amount(size)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
        axes.set_ylim(-8, 108)
        axes.grid(visible=True, which="major", linewidth=0.6)
        axes.set_xlabel("sent by one client over the whole run (logarithmic)")
        axes.set_ylabel("Score (%)")
        figure.legend(loc="outside right center", fontsize=8.5)

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
    """Seconds of each phase."""
    most = max(row["edits"] for row in rows)
    data = [
        {
            "strategy": row["strategy"],
            "edits": row["edits"],
            **{phase: row["seconds"].get(phase, 0.0) for phase in PHASES},
        }
        for row in rows
        if row["edits"] == most
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        start = [0.0] * len(data)
        for phase, shade in PHASES.items():
            widths = [float(item[phase]) for item in data]
            axes.barh(range(len(data)), widths, left=start, color=shade, label=phase, height=0.62)
            start = [a + b for a, b in zip(start, widths, strict=True)]
        axes.set_yticks(range(len(data)), [label(item["strategy"]) for item in data])
        axes.invert_yaxis()
        axes.grid(visible=True, axis="x", linewidth=0.6)
        axes.set_xlabel(f"seconds, summed over clients, {most} edits")
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


def _bars(axes: Axes, data: Sequence[Mapping[str, Any]], key: str, theme: Theme) -> None:
    values = [item[key] or 0.0 for item in data]
    errors = [item.get(f"{key}_ci95") or 0.0 for item in data]
    places = range(len(data))
    axes.barh(
        places,
        values,
        xerr=errors,
        color=[color(item["strategy"]) for item in data],
        error_kw={"ecolor": theme.text, "elinewidth": 1, "capsize": 2},
        height=0.62,
    )
    for place, item in zip(places, data, strict=True):
        shown = "not measured" if item[key] is None else f"{item[key]:.1f}"
        inside = (item[key] or 0.0) > 50
        axes.annotate(
            shown,
            (2.0 if inside else (item[key] or 0.0) + (item.get(f"{key}_ci95") or 0.0) + 2.0, place),
            va="center",
            color="white" if inside else theme.text,
            fontsize=8.5,
        )
    for item in data:
        if item["strategy"] == BOUND and item[key] is not None:
            axes.axvline(item[key], color=theme.text, linestyle="--", linewidth=1)
    axes.set_yticks(list(places), [label(item["strategy"]) for item in data])
    axes.set_ylim(len(data) - 0.4, -0.6)
    axes.set_xlim(0, 104)
    axes.grid(visible=True, axis="x", linewidth=0.6)


def _rings(axes: Axes, data: Sequence[Mapping[str, Any]]) -> None:
    for place, name in enumerate(dict.fromkeys(item["strategy"] for item in data)):
        points = [item for item in data if item["strategy"] == name]
        # Rings of growing size stay visible where strategies coincide.
        axes.scatter(
            [point["up_bytes_per_client"] for point in points],
            [point["score"] or 0.0 for point in points],
            s=30 + 45 * place,
            facecolors="none",
            edgecolors=color(name),
            linewidths=2,
            label=label(name),
        )


def _references(axes: Axes, rows: Rows, theme: Theme) -> None:
    most = max(row["edits"] for row in rows)
    for row in rows:
        score = row["final"].get("score")
        if row["strategy"] == BOUND and row["edits"] == most and score is not None:
            axes.axhline(score, color=color(BOUND), linestyle="--", label=label(BOUND))
    paper = max(row["payload"]["up_bytes_paper"] / row["clients"] for row in rows)
    axes.axvline(paper, color=theme.text, linestyle=":", linewidth=1, label="paper")


def _lines(axes: Axes, data: Sequence[Mapping[str, Any]], x: str, y: str) -> None:
    for name in dict.fromkeys(item["strategy"] for item in data):
        points = [
            (item[x], item[y]) for item in data if item["strategy"] == name and item[y] is not None
        ]
        if points:
            axes.plot(
                *zip(*sorted(points), strict=True),
                color=color(name),
                linestyle="--" if name == BOUND else "-",
                marker="o",
                markersize=3.5,
                label=label(name),
                zorder=3 if name == BOUND else 2,
            )
    axes.set_ylim(-4, 104)
    axes.grid(visible=True, linewidth=0.6)

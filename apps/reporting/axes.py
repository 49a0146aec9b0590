"""How the report draws: one colour per strategy, one stroke per editor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fleke_flwr.apps.reporting.picture import Theme
from fleke_flwr.apps.results import (
    BOUND,
    Row,
    Rows,
    has_editors,
    shown,
    swept_key,
    swept_title,
    swept_value,
)
from fleke_flwr.apps.tables import label
from fleke_flwr.values import Scalar

Data = Sequence[Mapping[str, Any]]

_STRATEGIES = {
    "collabedit": "#1f77d0",
    BOUND: "#8c8c8c",
    "task_arithmetic": "#e08a00",
    "ties": "#c65aa0",
    "simple_average": "#1a9e77",
    "edit_avg": "#d1495b",
    "fededit": "#7047d6",
    "fededit_no_condition": "#a07be0",
}
_OTHERS = ("#7a5195", "#008b8b", "#a0522d", "#6b8e23", "#4b5cc4")
_VARIANTS = ("#1f77d0", "#e08a00", "#1a9e77", "#c65aa0", "#7047d6", "#d1495b")
_MARKERS = ("o", "s", "^", "D", "v")
_STROKES = ("-", (0, (5, 1, 1, 1)), (0, (1, 1)))
_BOUND_STROKES = ("--", (0, (2, 2)), (0, (1, 3)))
_HATCHES = ("", "///", "...", "xx")
_HATCH_COLOR = (0.0, 0.0, 0.0, 0.4)
_FEW = 7  # values that all get a tick of their own
_LOGARITHMIC = 30  # span of values beyond which an axis is logarithmic


def color(strategy: str) -> str:
    """Return a strategy's colour, the same in every picture and every report."""
    return _STRATEGIES.get(strategy) or _OTHERS[sum(strategy.encode()) % len(_OTHERS)]


def identity(row: Row, rows: Rows) -> dict[str, Any]:
    """Return what a row is drawn by: its strategy, and its editor where these differ."""
    return {"strategy": row["strategy"], **({"editor": row["editor"]} if has_editors(rows) else {})}


def called(item: Mapping[str, Any]) -> str:
    """Name what is drawn."""
    return label(item["strategy"]) + (f", {item['editor']}" if "editor" in item else "")


def variant_called(row: Row, rows: Rows) -> str:
    """Name a row among others by all that tells it from them: also its memory and settings."""
    key, memory = swept_key(rows), row.get("memory", "none")
    parts = [called(identity(row, rows))]
    parts += [f"memory {memory}"] if memory != "none" and key != "memory" else []
    parts += [f"{swept_title(key)} {shown(swept_value(row, key))}"] if key else []
    return ", ".join(parts)


def variant_strokes(rows: Rows) -> list[dict[str, Any]]:
    """Return colour, stroke and marker of each row's line.

    The colour is the strategy's, unless a strategy has several rows: then it tells these apart,
    and the stroke tells the strategies.
    """
    strategies = [row["strategy"] for row in rows]
    distinct = list(dict.fromkeys(strategies))
    strokes = []
    for place, strategy in enumerate(strategies):
        number = distinct.index(strategy)
        shade = color(strategy)
        if len(distinct) < len(strategies):
            shade = _VARIANTS[strategies[:place].count(strategy) % len(_VARIANTS)]
        kind = _BOUND_STROKES[0] if strategy == BOUND else "-"
        strokes.append(
            {"color": shade, "linestyle": kind, "marker": _MARKERS[number % len(_MARKERS)]}
        )
    return strokes


def bars(axes: Axes, data: Data, key: str, theme: Theme) -> None:
    """Draw a percentage per row, with intervals, and the bounds as lines."""
    places = range(len(data))
    for place, item in zip(places, data, strict=True):
        value = item[key] or 0.0
        half = (item.get(f"{key}_ci95") or 0.0) if item[key] is not None else 0.0
        shade = color(item["strategy"])
        axes.barh(
            [place],
            [value],
            xerr=[half],
            color=shade,
            hatch=_of_editor(data, item, _HATCHES),
            edgecolor=_HATCH_COLOR,
            linewidth=0,
            error_kw={"ecolor": theme.text, "elinewidth": 1, "capsize": 2},
            height=0.62,
        )
        text = "not measured" if item[key] is None else f"{item[key]:.1f}"
        inside = value > 50
        axes.annotate(
            text,
            (2.0 if inside else value + half + 2.0, place),
            va="center",
            color="white" if inside else theme.text,
            path_effects=[withStroke(linewidth=2.5, foreground=shade)] if inside else [],
            fontsize=8.5,
        )
    bounds(axes.axvline, data, key, theme.text)
    axes.set_yticks(list(places), [called(item) for item in data])
    axes.set_ylim(len(data) - 0.4, -0.6)
    axes.set_xlim(0, 104)
    axes.grid(visible=True, axis="x", linewidth=0.6)


def bounds(draw: Callable[..., Any], data: Data, key: str, shade: str) -> None:
    """Draw the bounds as lines across; ``draw`` is ``axhline`` or ``axvline``."""
    for item in data:
        if item["strategy"] == BOUND and item[key] is not None:
            stroke = _of_editor(data, item, _BOUND_STROKES)
            draw(item[key], color=shade, linestyle=stroke, linewidth=1, label=called(item))


def lines(axes: Axes, data: Data, x: str, y: str) -> None:
    """Draw a percentage over something, one line per strategy and editor."""
    for name in dict.fromkeys(map(called, data)):
        items = [item for item in data if called(item) == name]
        points = [(item[x], item[y]) for item in items if item[y] is not None]
        if not points:
            continue
        bound = items[0]["strategy"] == BOUND
        strokes = _BOUND_STROKES if bound else _STROKES
        axes.plot(
            *zip(*sorted(points), strict=True),
            color=color(items[0]["strategy"]),
            linestyle=_of_editor(data, items[0], strokes),
            marker=_of_editor(data, items[0], _MARKERS),
            markersize=3.5,
            label=name,
            zorder=3 if bound else 2,
        )
    axes.set_ylim(-4, 104)
    axes.grid(visible=True, linewidth=0.6)


def rings(axes: Axes, data: Data, x: str, y: str) -> None:
    """Draw points as rings, of a size for each strategy: so they show where they coincide."""
    strategies = list(dict.fromkeys(item["strategy"] for item in data))
    for name in dict.fromkeys(map(called, data)):
        points = [item for item in data if called(item) == name]
        place = strategies.index(points[0]["strategy"])
        axes.scatter(
            [point[x] for point in points],
            [point[y] for point in points],
            s=30 + 45 * place,
            facecolors="none",
            edgecolors=color(points[0]["strategy"]),
            linewidths=2,
            marker=_of_editor(data, points[0], _MARKERS),
            label=name,
        )


def places(values: Sequence[Scalar]) -> dict[Scalar, float]:
    """Say where on an axis the values of a setting stand: numbers by size, others in order."""
    distinct = list(dict.fromkeys(values))
    if _numeric(distinct):
        return {value: float(value) for value in distinct}
    return {value: float(place) for place, value in enumerate(distinct)}


def value_axis(axes: Axes, values: Sequence[Scalar], names: Sequence[str]) -> None:
    """Set up the axis of a swept setting, logarithmic where its numbers span that much."""
    stands = places(values)
    spots = list(stands.values())
    if not _numeric(list(stands)):
        axes.set_xticks(spots, names)
        axes.set_xlim(min(spots) - 0.4, max(spots) + 0.4)
    elif min(spots) > 0 and max(spots) > _LOGARITHMIC * min(spots):
        axes.set_xscale("log")
        close = max(spots) < 100 * min(spots)
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if close else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(spots) <= _FEW and min(_gaps(spots)) > (max(spots) - min(spots)) / _FEW:
        axes.set_xticks(spots, names)
    else:
        whole = all(isinstance(value, int) for value in stands)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))


def _gaps(spots: Sequence[float]) -> list[float]:
    ordered = sorted(spots)
    return [after - before for before, after in pairwise(ordered)] or [1.0]


def _numeric(values: Sequence[Scalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _of_editor(data: Data, item: Mapping[str, Any], choices: Sequence[Any]) -> Any:
    """Return the choice of an item's editor, in the order in which editors appear."""
    editors = list(dict.fromkeys(entry.get("editor") for entry in data))
    return choices[editors.index(item.get("editor")) % len(choices)]

"""The picture of an edit that is made again and again (CollabEdit, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from fleke_flwr.apps.reporting.picture import Picture, Theme

# By kind of repetition: what it is called, its colour and its marker.
_KINDS = {
    "sequential": ("one after the other", "#1f77d0", "o"),
    "batch": ("copies in one batch", "#e08a00", "s"),
}
_MARKS = (0.1, 0.01)


def residual_by_repeat(study: Mapping[str, Any]) -> Picture:
    """Relative residual over the number of repeats: mean, 10 to 90 % of the edits, and the law.

    Parameters
    ----------
    study : Mapping[str, Any]
        Content of ``repeats.json``.
    """
    columns: dict[str, list[float]] = {"repeats": [float(n) for n in range(study["copies"] + 1)]}
    for kind in _KINDS:
        columns.update(_columns(kind, study[kind]))
    names = list(columns)
    data = [dict(zip(names, line, strict=True)) for line in zip(*columns.values(), strict=True)]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        for kind, (called, shade, marker) in _KINDS.items():
            x = columns["repeats"]
            low, high = columns[f"{kind}_p10"], columns[f"{kind}_p90"]
            axes.fill_between(x, low, high, color=shade, alpha=0.2, linewidth=0)
            axes.plot(x, columns[kind], color=shade, marker=marker, markersize=4, label=called)
            axes.plot(
                x,
                columns[f"{kind}_law"],
                color=theme.text,
                linestyle="--",
                linewidth=1,
                label="law" if kind == "batch" else None,
            )
        _residual_axis(axes, theme)
        # The law goes on to where a network in float32 cannot follow.
        axes.set_ylim(bottom=0.5 * min(min(columns[f"{kind}_p10"]) for kind in _KINDS))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("times the same edit was made")
        axes.set_ylabel("residual left, of 1 before")
        figure.legend(loc="outside right center", fontsize=8.5, handlelength=3.2)

    return Picture(
        "repeats",
        "Residual left by the same edit, made again",
        f"Mean and 10 to 90 % of {study['edits']} edits of layer {study['layer']}, relative to the "
        "residual before. Dashed: the law of one edited layer"
        + (
            ". It holds for the mean key over contexts; the prompt's own differs from it, which "
            "copies in one batch cannot make good."
            if study["contexts"] > 1
            else "."
        ),
        draw,
        (8.4, 3.6),
        data,
    )


def _columns(kind: str, found: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Return mean, quantiles and law, before the first repeat and after each."""
    measured = np.asarray(found["measured"])
    numbers = {
        kind: measured.mean(axis=0),
        f"{kind}_p10": np.quantile(measured, 0.1, axis=0),
        f"{kind}_p90": np.quantile(measured, 0.9, axis=0),
        f"{kind}_law": np.asarray(found["law"]).mean(axis=0),
    }
    return {name: [1.0, *map(float, values)] for name, values in numbers.items()}


def _residual_axis(axes: Axes, theme: Theme) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=9))
    axes.yaxis.set_minor_locator(NullLocator())
    for mark in _MARKS:
        axes.axhline(mark, color=theme.text, linestyle=":", linewidth=0.8)
    axes.grid(visible=True, linewidth=0.6)

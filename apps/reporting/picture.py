"""One picture of the report: drawn for light and dark pages, with its numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_DPI = 150


@dataclass(frozen=True)
class Theme:
    """Colours of a page; strategies keep theirs."""

    name: str
    text: str
    grid: str


LIGHT = Theme("light", "#24292f", "#d8dee4")
DARK = Theme("dark", "#e6edf3", "#30363d")


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Parameters
    ----------
    name : str
        File name without ending.
    title, caption : str
        What the page says above and below it.
    draw : Callable[[Figure, Theme], None]
        Draws it.
    size : tuple[float, float]
        Width and height in inches.
    data : list[dict[str, Any]]
        The numbers behind it.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Figure, Theme], None]
    size: tuple[float, float]
    data: list[dict[str, Any]]

    def svg(self, theme: Theme) -> str:
        """Draw for a theme."""
        with _styled(theme, self.name):
            buffer = io.StringIO()
            self._figure(theme).savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    def png(self) -> bytes:
        """Draw on white, for documents that take no SVG."""
        with _styled(LIGHT, self.name):
            buffer = io.BytesIO()
            self._figure(LIGHT).savefig(buffer, format="png", dpi=_DPI, facecolor="white")
        return buffer.getvalue()

    def csv(self) -> str:
        """Return the numbers as comma-separated values."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(self.data[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.data)
        return buffer.getvalue()

    def _figure(self, theme: Theme) -> Figure:
        figure = Figure(figsize=self.size, layout="constrained")
        figure.patch.set_alpha(0)
        self.draw(figure, theme)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        return figure


def _styled(theme: Theme, name: str) -> AbstractContextManager[None]:
    return matplotlib.rc_context(
        {
            "font.family": "sans-serif",
            "font.size": 9.5,
            "text.color": theme.text,
            "axes.edgecolor": theme.grid,
            "axes.labelcolor": theme.text,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "xtick.color": theme.text,
            "ytick.color": theme.text,
            "grid.color": theme.grid,
            "legend.frameon": False,
            "legend.labelcolor": theme.text,
            "svg.fonttype": "path",
            "svg.hashsalt": name,
        }
    )

"""What the report's page is put together from: sections, their list, and pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fleke_flwr.apps.reporting.cells import grid, headings, line
from fleke_flwr.apps.reporting.picture import DARK, LIGHT, Picture

# More numbers behind a picture than this are left to its CSV file.
_MOST_NUMBERS = 200
# At which a picture's letters are as large as the page's small ones.
_PIXELS_PER_INCH = 107


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Parameters
    ----------
    title : str
        The heading.
    body : str
        Markup.
    """

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """Where a link goes."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def markup(self) -> str:
        """Return the section as it stands on the page."""
        name = self.anchor
        return (
            f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(self.title)}</h2>\n'
            f"{self.body}</section>"
        )


def contents(sections: Sequence[Section]) -> str:
    """Return links to all sections."""
    items = "".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in sections
    )
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def shown(picture: Picture, heading: str = "") -> str:
    """Return a picture for light and dark with its caption and, folded in, its numbers.

    Parameters
    ----------
    picture : Picture
        What is shown.
    heading : str
        Put above it where the section holds several.
    """
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(picture.svg(theme).encode()).decode()
        for theme in (LIGHT, DARK)
    )
    width = round(_PIXELS_PER_INCH * picture.size[0])
    alternative = escape(f"{picture.title}. {picture.caption} The numbers follow as a table.")
    return (
        (f"<h3>{escape(heading)}</h3>" if heading else "")
        + f'<figure><div class=wide tabindex=0 role=group aria-label="{escape(picture.title)}">'
        '<picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{dark}"><img src="{light}" alt="{alternative}" style="max-width: {width}px">'
        "</picture></div>"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>{_numbers(picture)}"
    )


def folded(title: str, body: str, *, is_open: bool = False) -> str:
    """Return what a reader may unfold."""
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{escape(title)}</summary>{body}</details>"


def _numbers(picture: Picture) -> str:
    file = f"report/{picture.name}.csv"
    if len(picture.data) > _MOST_NUMBERS:
        return f"<p class=note>The numbers are in {file}, beside this page.</p>"
    body = "".join(line(escape(_number(value)) for value in item.values()) for item in picture.data)
    table = grid(headings(picture.data[0]), body, f"Numbers of the picture, also in {file}")
    return folded("Numbers", table)


def _number(value: object) -> str:
    if value is None:
        return "–"  # noqa: RUF001  # a dash stands for "not measured"
    return f"{value:.5g}" if isinstance(value, float) else str(value)

"""What a trace looks like in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fleke_flwr.apps.locating.records import Records
from fleke_flwr.apps.locating.sentences import run_command, shown_half, still_missing
from fleke_flwr.apps.tables import percent
from fleke_flwr.locate.effects import LAST_SUBJECT
from fleke_flwr.locate.restorations import (
    ATTENTION,
    BLOCK,
    MLP,
    SEVERED_ATTENTION,
    SEVERED_MLP,
)

# Nine columns beside the layer's, in a terminal of 80 columns.
_TITLES = {
    BLOCK: "block",
    MLP: "MLP",
    ATTENTION: "attn",
    SEVERED_MLP: "severed\nMLP",
    SEVERED_ATTENTION: "severed\nattn",
}
_SHORT = ("ES", "PS", "NS", "Score")
MEASURES = ("efficacy", "paraphrase", "neighborhood", "score")


def show(content: Mapping[str, Any], records: Records, directory: Path, console: Console) -> None:
    """Print counts, the effects at the last subject token by layer, and the suggested layers.

    Parameters
    ----------
    content : Mapping[str, Any]
        Content of ``trace.json``.
    records : Records
        What the data set holds.
    directory : Path
        Of the results.
    console : Console
        Where to.
    """
    for text in spoken(content, records):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(_table(content), soft_wrap=not console.is_terminal)
    for text in _suggestion(content, directory):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def spoken(content: Mapping[str, Any], records: Records) -> list[str]:
    """Say in sentences what was traced and how strong the corruption was."""
    counts, total = content["counts"], content["total_effect"]
    left = len(records.usable) - counts["asked"]
    more = f"; {left} further ones were not asked for (--limit)" if left else ""
    return [
        f"{counts['traced']} known facts traced; {counts['unknown']} of {counts['asked']} that "
        f"were asked for are not known{more}",
        f"probability of the answer {content['high']:.3f}, with the subject corrupted "
        f"{content['low']:.3f}: average total effect {total['value']:.3f} ± "
        f"{shown_half(total['ci95'])}",
    ]


def _suggestion(content: Mapping[str, Any], directory: Path) -> list[str]:
    suggestion, missing = content["suggestion"], still_missing(content)
    if suggestion is None:
        return [f"no layers suggested: {content['why_none']}"]
    return [
        f"suggested layers: {_named(suggestion['layers'])}; {suggestion['rule']}",
        *([missing] if missing else []),
        f"to edit them: {run_command(content, directory)}",
    ]


def _table(content: Mapping[str, Any]) -> Table:
    kinds, edited = content["settings"]["kinds"], content["edited"]
    table = Table(title="Average indirect effect at the last subject token, by layer", box=None)
    table.add_column("layer", justify="right")
    for title in (*(_TITLES[kind] for kind in kinds), *(_SHORT if edited else ())):
        table.add_column(title, justify="right", no_wrap=True)
    suggested = (content["suggestion"] or {}).get("layers", [])
    at = {tuple(row["layers"]): row for row in edited["at"]} if edited else {}
    for layer in range(content["model"]["layers"]):
        cells = [_effect(content, kind, layer) for kind in kinds]
        cells += _figures(at.pop((layer,))) if edited else []
        table.add_row(str(layer), *cells, style="bold" if layer in suggested else "")
    for layers, row in at.items():
        table.add_row(_named(layers), *([""] * len(kinds)), *_figures(row), style="bold")
    return table


def _effect(content: Mapping[str, Any], kind: str, layer: int) -> str:
    values = content["effects"][kind][LAST_SUBJECT]["aie"]
    return f"{values[layer]:.3f}" if values else "-"


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [percent(row[name]) for name in MEASURES]


def _named(layers: Sequence[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"

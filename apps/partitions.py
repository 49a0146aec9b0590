"""Show which client gets which records: a table, and files for a paper's appendix."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from fleke_flwr.apps.partition_files import record_lines
from fleke_flwr.apps.reporting.picture import DARK, LIGHT, Picture, Theme
from fleke_flwr.artifacts import write_text
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import CaseSet, load_cases
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.data.partitioners import by_size
from fleke_flwr.errors import ConfigError
from fleke_flwr.types import EvalCase

NO_RELATION = "no relation"
OTHER = "other relations"
_IN_TABLE = 3
_COLORS = (
    "#4477aa", "#e08a00", "#228833", "#c65aa0", "#66ccee", "#d1495b",
    "#7a5195", "#ccbb44", "#1a9e77", "#a0522d", "#8fa3e8", "#6b8e23",
)  # fmt: skip
_GREY = "#8c8c8c"


def describe(cases_by_client: Sequence[Sequence[EvalCase]]) -> list[dict[str, Any]]:
    """Return what every client holds.

    Parameters
    ----------
    cases_by_client : Sequence[Sequence[EvalCase]]
        As :func:`~fleke_flwr.data.partition.partition_cases` gives them.

    Returns
    -------
    list[dict[str, Any]]
        By client: ``client``, ``records``, distinct ``subjects``, ``relations`` with their counts
        (the largest first), and how many records are ``shared`` with another client.
    """
    holders = Counter(case.request for cases in cases_by_client for case in cases)
    return [
        {
            "client": client,
            "records": len(cases),
            "subjects": len({case.request.subject for case in cases}),
            "relations": dict(by_size([_relation(case) for case in cases])),
            "shared": sum(holders[case.request] > 1 for case in cases),
        }
        for client, cases in enumerate(cases_by_client)
    ]


def show(config: RunConfig, output: Path | None, console: Console) -> None:
    """Print who gets what; with a directory, write files of it, too.

    These are ``partition.csv``, a picture, and ``client-N.jsonl`` by client, with which SuperNodes
    make the edits that the simulation makes with the same configuration.

    Raises
    ------
    ConfigError
        If ``output`` is a file, or a setting of the partition is wrong.
    DataError
        If the records cannot be read, or do not allow the partition.
    """
    if output is not None and output.expanduser().is_file():
        raise ConfigError(f"--output {output}: is a file; name a directory")
    cases = load_cases(config.data)
    parts = partition_cases(cases.cases, config.data, config.clients, config.seed)
    rows = describe(parts)
    console.print(_table(rows))
    console.print(_summary(cases, parts), markup=False, highlight=False, soft_wrap=True)
    if output is None:
        return
    directory = output.expanduser()
    image = picture(rows)
    write_text(directory / "partition.csv", _csv(parts))
    for client, part in enumerate(parts):
        lines = record_lines(part, cases.protocol, config.data.owner)
        write_text(directory / f"client-{client}.jsonl", lines)
    write_text(directory / "partition.svg", image.svg(LIGHT))
    write_text(directory / "partition-dark.svg", image.svg(DARK))
    console.print(f"written to {directory}", markup=False, highlight=False, soft_wrap=True)


def picture(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw the records of every client by relation; what is not among the largest is grey.

    Parameters
    ----------
    rows : Sequence[Mapping[str, Any]]
        As :func:`describe` gives them.
    """
    totals: Counter[str] = Counter()
    for row in rows:
        totals.update(row["relations"])
    ranked = sorted(totals, key=lambda relation: (-totals[relation], relation))
    named = dict(zip((name for name in ranked if name != NO_RELATION), _COLORS, strict=False))
    shades = {**named, **({NO_RELATION: _GREY} if NO_RELATION in totals else {})}
    if len(shades) < len(totals):
        shades[OTHER] = "#c4c9cf" if NO_RELATION in totals else _GREY
    data = [
        {"client": row["client"], **{name: _held(row, name, shades) for name in shades}}
        for row in rows
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        _stack(axes, data, shades, theme)
        if len(shades) > 1:
            figure.legend(loc="outside right center", fontsize=8.5)

    return Picture(
        "partition",
        "Records by client and relation",
        f"The {len(named)} largest relations are named.",
        draw,
        (7.2, max(0.9 + (0.3 if len(rows) <= 12 else 0.2) * len(rows), 0.4 + 0.2 * len(shades))),
        data,
    )


def _held(row: Mapping[str, Any], name: str, shades: Mapping[str, str]) -> int:
    relations: Mapping[str, int] = row["relations"]
    if name != OTHER:
        return relations.get(name, 0)
    return sum(count for relation, count in relations.items() if relation not in shades)


def _stack(
    axes: Axes, data: Sequence[Mapping[str, int]], shades: Mapping[str, str], theme: Theme
) -> None:
    places = range(len(data))
    orders = [_order(item, list(shades)) for item in data]
    totals = [sum(item[name] for name in shades) for item in data]
    for name, shade in shades.items():
        widths = [item[name] for item in data]
        starts = [
            sum(item[before] for before in order[: order.index(name)])
            for item, order in zip(data, orders, strict=True)
        ]
        axes.barh(places, widths, left=starts, color=shade, label=name, height=0.68)
    for place, total in zip(places, totals, strict=True):
        axes.annotate(
            str(total),
            (total, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=theme.text,
            fontsize=8.5,
        )
    axes.set_yticks(list(places), [str(item["client"]) for item in data])
    axes.set_ylim(len(data) - 0.4, -0.6)
    axes.set_xlim(0, 1.06 * max(totals))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("client")
    axes.set_xlabel("records")


def _order(counts: Mapping[str, int], names: Sequence[str]) -> list[str]:
    """Put a client's largest relation first, so that what is mixed in shows behind it."""
    own = max((name for name in names if name != OTHER), key=lambda name: counts[name])
    return [own, *(name for name in names if name != own)]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("client", "records", "subjects"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("relations")
    table.add_column("shared", justify="right", no_wrap=True)
    for row in rows:
        numbers = [str(row[key]) for key in ("client", "records", "subjects")]
        table.add_row(*numbers, _largest(row["relations"]), str(row["shared"]))
    return table


def _largest(relations: Mapping[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in list(relations.items())[:_IN_TABLE]]
    more = len(relations) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _summary(cases: CaseSet, parts: Sequence[Sequence[EvalCase]]) -> str:
    given = len({case.request for part in parts for case in part})
    text = f"{given} of {len(cases.cases)} records of {cases.name} ({cases.protocol})"
    if cases.skipped:
        reasons = (f"{count} {reason}" for reason, count in cases.skipped.items())
        text += f"; left out of the file: {', '.join(reasons)}"
    return text


def _csv(parts: Sequence[Sequence[EvalCase]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("client", "case_id", "relation", "subject"))
    for client, part in enumerate(parts):
        for case in part:
            request = case.request
            writer.writerow((client, request.case_id, request.relation, request.subject))
    return buffer.getvalue()


def _relation(case: EvalCase) -> str:
    return case.request.relation or NO_RELATION

"""The report's picture of a sweep: what a setting does."""

from __future__ import annotations

from matplotlib.figure import Figure

from fleke_flwr.apps.reporting.axes import identity, lines, places, value_axis
from fleke_flwr.apps.reporting.figures import panels
from fleke_flwr.apps.reporting.metrics import protocol_of
from fleke_flwr.apps.reporting.picture import Picture, Theme
from fleke_flwr.apps.results import (
    EDITS,
    Rows,
    measured,
    personal,
    share_taken,
    shown,
    swept_key,
    swept_title,
    swept_value,
)

_TAKEN = "taken"


def score_by_value(rows: Rows) -> Picture:
    """Score over the swept setting, one line per strategy and editor.

    Two panels as in the bars; for a setting of FedEdit a third one, the share of the offered
    vectors that was taken.
    """
    key = swept_key(rows)
    shows = panels(rows, protocol_of(rows))
    titles = {column: title for column, (title, *_) in shows.items()}
    if key.startswith("fededit.") and any(personal(row) for row in rows):
        titles[_TAKEN] = "Offered vectors taken"
    values = [swept_value(row, key) for row in rows]
    stands = places(values)
    data = [
        {
            **identity(row, rows),
            swept_title(key): shown(value),
            "at": stands[value],
            **{
                column: measured(row, group).get(metric)
                for column, (_, group, metric) in shows.items()
            },
            **({_TAKEN: share_taken(row)} if _TAKEN in titles else {}),
        }
        for row, value in zip(rows, values, strict=True)
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        every = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        for axes, (column, title) in zip(every, titles.items(), strict=True):
            lines(axes, data, "at", column)
            value_axis(axes, values, [shown(value) for value in stands])
            axes.set_title(f"{title} (%)", fontsize=9.5)
            axes.set_xlabel("edits in total" if key == EDITS else key)
        handles, names = every[0].get_legend_handles_labels()
        if handles:
            strokes = {"ncols": 3, "fontsize": 8.5, "handlelength": 3.2}
            figure.legend(handles, names, loc="outside lower center", **strokes)

    count = len({(row["strategy"], row["editor"]) for row in rows})
    return Picture(
        "sweep",
        "Score against the number of edits" if key == EDITS else f"Score against {key}",
        "Dashed: the pooled bound."
        + (
            " Beyond what the edited layers can hold every line falls: that is the model's limit."
            if key == EDITS
            else ""
        ),
        draw,
        (8.4, 3.1 + 0.22 * -(-count // 3)),
        data,
    )

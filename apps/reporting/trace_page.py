"""The page of a trace: one file with its pictures, tables and the suggested layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from fleke_flwr.apps.locating.sentences import run_command, shown_half, still_missing
from fleke_flwr.apps.reporting.cells import DASH, grid, headings, interval, line
from fleke_flwr.apps.reporting.parts import Section, contents, folded, shown
from fleke_flwr.apps.reporting.picture import DARK, LIGHT, Picture, Theme
from fleke_flwr.apps.reporting.style import PAGE
from fleke_flwr.apps.reporting.trace import average_effects, by_layer, one_fact
from fleke_flwr.artifacts import write_text
from fleke_flwr.locate.effects import LAST_SUBJECT
from fleke_flwr.locate.tracing import Trace

_FACTS = 4
_MEASURES = ("efficacy", "paraphrase", "neighborhood", "score", "same_subject")
_MOST_LISTED = 200


def write_page(directory: Path, content: Mapping[str, Any], traces: Sequence[Trace]) -> Path:
    """Write ``trace.html``, with its pictures and their numbers beside it in ``report/``.

    Parameters
    ----------
    content : Mapping[str, Any]
        Content of ``trace.json``.
    traces : Sequence[Trace]
        The facts; those with the largest total effect are shown one by one.

    Returns
    -------
    Path
        The page.
    """
    show = _Shown(directory / "report")
    window = content["settings"]["window"]
    strongest = sorted(traces, key=lambda trace: trace.low - trace.high)[:_FACTS]
    facts = [one_fact(trace, number, window) for number, trace in enumerate(strongest, start=1)]
    average, curves = average_effects(content), by_layer(content)
    sections = [
        Section("What was traced", _settings(content)),
        Section(average.title, show(average)),
        *([Section(curves.title, show(curves))] if curves else []),
        Section("Suggested layers", _suggestion(content, directory)),
        *([Section("Edits by layer", _edits(content["edited"]))] if content["edited"] else []),
        Section("Single facts", "".join(show(fact, fact.title) for fact in facts)),
        *_left_out(content),
        Section("Provenance", folded("trace.json", _dumped(content))),
    ]
    page = PAGE.format(
        title=escape(f"Causal tracing of {Path(content['model']['name']).name}"),
        summary=escape(summary(content)),
        contents=contents(sections),
        body="\n".join(section.markup() for section in sections),
    )
    path = directory / "trace.html"
    write_text(path, page)
    return path


def summary(content: Mapping[str, Any]) -> str:
    """Say in words what came out."""
    total, suggestion = content["total_effect"], content["suggestion"]
    said = (
        f"{content['counts']['traced']} known facts. Corrupting the subject takes the probability "
        f"of the answer from {content['high']:.2f} to {content['low']:.2f}, an average total "
        f"effect of {total['value']:.3f} ± {shown_half(total['ci95'])}."
    )
    if suggestion is None:
        return f"{said} No layers are suggested: {content['why_none']}."
    layers = ", ".join(map(str, suggestion["layers"]))
    return f"{said} Suggested to be edited: layer{'s' * (',' in layers)} {layers}."


@dataclass(frozen=True)
class _Once(Picture):
    """A picture that is drawn once a theme: cells with numbers in them take a second.

    Parameters
    ----------
    drawn : dict[str, str]
        By theme, what there is already.
    """

    drawn: dict[str, str] = field(default_factory=dict)

    def svg(self, theme: Theme) -> str:
        """Draw for a theme, or find what was drawn."""
        if theme.name not in self.drawn:
            self.drawn[theme.name] = super().svg(theme)
        return self.drawn[theme.name]


class _Shown:
    """Puts pictures on the page, and beside it for other documents.

    Parameters
    ----------
    folder : Path
        Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, picture: Picture, heading: str = "") -> str:
        """Return the markup of a picture."""
        picture = _Once(**vars(picture))
        write_text(self._folder / f"{picture.name}.svg", picture.svg(LIGHT))
        write_text(self._folder / f"{picture.name}-dark.svg", picture.svg(DARK))
        write_text(self._folder / f"{picture.name}.csv", picture.csv())
        (self._folder / f"{picture.name}.png").write_bytes(picture.png())
        return shown(picture, heading)


def _settings(content: Mapping[str, Any]) -> str:
    settings, counts, model = content["settings"], content["counts"], content["model"]
    how = "in place of" if settings["replace"] else "added to"
    facts = {
        "model": f"{model['name']} ({model['type']}, {model['layers']} layers, {model['dtype']})",
        "records": content["data"],
        "traced": f"{counts['traced']} facts",
        "not known": f"{counts['unknown']} of {counts['asked']} asked",
        "cannot be traced": f"{counts['unusable']} of {counts['records']} records",
        "noise": f"{settings['noise']}, scale {settings['noise_scale']:.4g}, {how} the embeddings",
        "corrupted copies": str(settings["samples"]),
        "window": str(settings["window"]),
        "seed": str(settings["seed"]),
    }
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{items}</dl>"


def _suggestion(content: Mapping[str, Any], directory: Path) -> str:
    suggestion, missing = content["suggestion"], still_missing(content)
    if suggestion is None:
        return f"<p>None: {escape(content['why_none'])}.</p>"
    return (
        f"<p>{_sentence(suggestion['rule'])}</p>"
        f"<p>They are in <code>layers.toml</code> beside this page"
        f"{f'. {_sentence(missing)} Then' if missing else ''}:</p>"
        f"<pre>{escape(run_command(content, directory))}</pre>"
        f"{_by_layer(content)}"
    )


def _sentence(text: str) -> str:
    return f"{escape(text[0].upper() + text[1:])}."


def _by_layer(content: Mapping[str, Any]) -> str:
    kinds = content["settings"]["kinds"]
    rows = [content["effects"][kind][LAST_SUBJECT] for kind in kinds]
    body = "".join(
        line(
            [
                str(layer),
                *(
                    f"{row['aie'][layer]:.3f} <small>± {shown_half(row['ci95'][layer])}</small>"
                    if row["aie"]
                    else DASH
                    for row in rows
                ),
            ]
        )
        for layer in range(content["model"]["layers"])
    )
    return grid(headings(["layer", *kinds]), body, "Average indirect effect, last subject token")


def _edits(edited: Mapping[str, Any]) -> str:
    rows = [("not edited", edited["base"]), *((_named(row["layers"]), row) for row in edited["at"])]
    body = "".join(
        line([escape(name), *(interval(row, measure) for measure in _MEASURES)])
        for name, row in rows
    )
    note = (
        f"{edited['edits']} traced facts are edited together ({edited['editor']}), each time on "
        "the unedited model, with the target vectors in the layer itself (in the last of several)."
    )
    titles = ["edited layers", *(name.replace("_", " ") for name in _MEASURES)]
    table = grid(headings(titles), body, "Percent, by edited layer")
    return f"{table}<p class=note>{escape(note)}</p>"


def _left_out(content: Mapping[str, Any]) -> list[Section]:
    unusable, unknown = content["unusable"], content["unknown"]
    if not unusable and not unknown:
        return []
    body = ""
    if unusable:
        cells = "".join(
            line([escape(place), escape(why)])
            for place, why in list(unusable.items())[:_MOST_LISTED]
        )
        table = grid(headings(["record", "why"]), cells, "Records that cannot be traced", "words")
        body += folded(f"{len(unusable)} records that cannot be traced", table)
    if unknown:
        places = escape(", ".join(unknown[:_MOST_LISTED]))
        body += folded(f"{len(unknown)} facts that the model does not know", f"<p>{places}</p>")
    note = "<p class=note>All of them are in trace.json.</p>"
    return [Section("Left out", body + note)]


def _dumped(content: Mapping[str, Any]) -> str:
    own = {key: value for key, value in content.items() if key not in ("unusable", "unknown")}
    return f"<pre>{escape(json.dumps(own, indent=2, ensure_ascii=False))}</pre>"


def _named(layers: Sequence[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"

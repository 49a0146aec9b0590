"""The pictures of causal tracing: heat maps as in ROME and MEMIT, and curves beside edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fleke_flwr.apps.reporting.picture import Picture, Theme
from fleke_flwr.locate.effects import LAST_SUBJECT, ROLES
from fleke_flwr.locate.tracing import Trace

# By kind: its title, and its colour on light and on dark pages.
_KINDS = {
    "block": ("one block's state", "#54278f", "#c9a8ff"),
    "mlp": ("MLPs", "#006d2c", "#7ee29a"),
    "attention": ("attention", "#a50f15", "#ff9a8a"),
    "severed-mlp": ("block, later MLPs severed", "#1a9e77", "#5fd0b0"),
    "severed-attention": ("block, later attention severed", "#d1495b", "#ff8fa0"),
}
_DRAWN = ("block", "mlp", "attention")
_FIGURES = {
    "efficacy": "#1f77d0",
    "paraphrase": "#e08a00",
    "neighborhood": "#1a9e77",
    "score": "#c65aa0",
}
_PAPER = {"light": "#ffffff", "dark": "#161b22"}
_MOST_LABELLED = 12
_MOST_LETTERS = 18
Grid = Sequence[Sequence[float | None]]


def average_effects(content: Mapping[str, Any]) -> Picture:
    """Average indirect effect by token role and layer, one panel a kind (ROME, figure 1)."""
    layers, kinds = content["model"]["layers"], _drawn(content["settings"]["kinds"])
    effects = content["effects"]
    roles = [role for role in ROLES if effects[kinds[0]][role]["aie"]]
    grids = {kind: [effects[kind][role]["aie"] for role in roles] for kind in kinds}
    data = [
        {
            "kind": kind,
            "token": role,
            "tokens": effects[kind][role]["tokens"],
            "layer": layer,
            "aie": effects[kind][role]["aie"][layer],
            "ci95": effects[kind][role]["ci95"][layer],
        }
        for kind in effects
        for role in roles
        for layer in range(layers)
    ]
    traced, window = content["counts"]["traced"], content["settings"]["window"]
    return Picture(
        "effects",
        "Average indirect effect",
        f"What restoring one state gives back to the probability of the answer; mean of {traced} "
        f"facts. MLPs and attention: {_windows(window)} around the layer, restored together.",
        lambda figure, theme: _panels(figure, theme, grids, roles),
        (3.0 + 2.5 * len(kinds), 0.95 + 0.33 * len(roles)),
        data,
    )


def one_fact(trace: Trace, number: int, window: int) -> Picture:
    """Restored probability by token and layer of a single fact (ROME, figure 1e to g)."""
    kinds = _drawn(list(trace.scores))
    grids: dict[str, Grid] = {kind: trace.scores[kind].tolist() for kind in kinds}
    data = [
        {"kind": kind, "position": position, "token": token, "layer": layer, "probability": score}
        for kind in kinds
        for position, token in enumerate(trace.tokens)
        for layer, score in enumerate(trace.scores[kind][position].tolist())
    ]
    labels = [
        f"{_short(token)}{'*' if trace.start <= position < trace.stop else ''}"
        for position, token in enumerate(trace.tokens)
    ]
    return Picture(
        f"fact-{number}",
        f"{''.join(trace.tokens).strip()} → {trace.answer.strip()}",
        f"Probability of the answer: {trace.high:.3f} as it is, {trace.low:.3f} with the "
        f"subject (*) corrupted. MLPs and attention: {_windows(window)} around the layer.",
        lambda figure, theme: _panels(figure, theme, grids, labels, (trace.low, trace.high)),
        (3.0 + 2.5 * len(kinds), 0.95 + 0.27 * len(labels)),
        data,
    )


def by_layer(content: Mapping[str, Any]) -> Picture | None:
    """Effects at the last subject token by layer, and edits of each single layer beside them."""
    effects, edited = content["effects"], content["edited"]
    facts = next(iter(effects.values()))[LAST_SUBJECT]["tokens"]
    if not facts:
        return None
    layers = range(content["model"]["layers"])
    rows = {row["layers"][0]: row for row in edited["at"][: len(layers)]} if edited else {}
    data = [
        {
            "layer": layer,
            **{
                f"{kind}{suffix}": found[LAST_SUBJECT][name][layer]
                for kind, found in effects.items()
                for suffix, name in (("", "aie"), ("_ci95", "ci95"))
            },
            **{name: rows[layer][name] for name in (_FIGURES if edited else ())},
        }
        for layer in layers
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        every = figure.subplots(1, 1 + bool(edited), squeeze=False)[0]
        _curves(every[0], data, list(effects), theme)
        if edited:
            _edits(every[1], data, theme)
        for axes in every:
            _by_layer_axis(axes, content["suggestion"], theme)

    bounds = " with 95 % intervals" if facts > 1 else ""
    editor = f", and {edited['edits']} edits of that layer alone" if edited else ""
    shaded = " Shaded: the suggested layers." if content["suggestion"] else ""
    return Picture(
        "layers",
        "Last subject token, layer by layer",
        f"Average indirect effect{bounds}{editor}.{shaded}",
        draw,
        (9.4 if edited else 6.0, 3.7),
        data,
    )


def _curves(
    axes: Axes, data: Sequence[Mapping[str, Any]], kinds: Sequence[str], theme: Theme
) -> None:
    x = [item["layer"] for item in data]
    for kind in kinds:
        shade = _shade(kind, theme)
        values = [item[kind] for item in data]
        stroke = "--" if kind.startswith("severed") else "-"
        axes.plot(x, values, stroke, color=shade, marker="o", markersize=3, label=_KINDS[kind][0])
        halves = [item[f"{kind}_ci95"] for item in data]
        if None not in halves:
            low, high = (
                [value + sign * half for value, half in zip(values, halves, strict=True)]
                for sign in (-1, 1)
            )
            axes.fill_between(x, low, high, color=shade, alpha=0.18, linewidth=0)
    axes.set_ylabel("average indirect effect")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)


def _edits(axes: Axes, data: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    for name, shade in _FIGURES.items():
        stands = [item["layer"] for item in data if item[name] is not None]
        values = [item[name] for item in data if item[name] is not None]
        axes.plot(stands, values, color=shade, marker="o", markersize=3.5, label=name)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("% of the edits of this layer alone", color=theme.text)
    axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)


def _by_layer_axis(axes: Axes, suggestion: Mapping[str, Any] | None, theme: Theme) -> None:
    if suggestion:
        first, last = suggestion["layers"][0], suggestion["layers"][-1]
        axes.axvspan(first - 0.5, last + 0.5, color=theme.grid, alpha=0.5, linewidth=0, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.grid(visible=True, axis="y", linewidth=0.6)


def _panels(
    figure: Figure,
    theme: Theme,
    grids: Mapping[str, Grid],
    labels: Sequence[str],
    span: tuple[float, float] | None = None,
) -> None:
    """Draw one heat map a kind: with a common ``span`` of colours, or each its own and numbers."""
    every = figure.subplots(1, len(grids), sharey=True, squeeze=False)[0]
    for axes, (kind, grid) in zip(every, grids.items(), strict=True):
        colours = LinearSegmentedColormap.from_list(kind, [_PAPER[theme.name], _shade(kind, theme)])
        values = [value for row in grid for value in row if value is not None]
        low, high = span or (min(0.0, *values), max(values))
        image = axes.imshow(grid, cmap=colours, vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
        if span is None:
            _write_values(axes, grid, (low, high), theme)
        axes.set_title(_KINDS[kind][0], fontsize=9.5)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=14)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    every[0].set_yticks(range(len(labels)), [label.replace("$", r"\$") for label in labels])


def _write_values(axes: Axes, grid: Grid, span: tuple[float, float], theme: Theme) -> None:
    """Write the numbers into the cells where there is room."""
    if len(grid[0]) > _MOST_LABELLED:
        return
    low, high = span
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            if value is None:
                continue
            filled = value - low > 0.55 * (high - low)
            shade = _PAPER[theme.name] if filled else theme.text
            text = f"{value:.2f}".replace("-0.00", "0.00")
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=shade)


def _drawn(kinds: Sequence[str]) -> list[str]:
    """Return what gets a heat map: the kinds of the papers' figures, or what there is."""
    return [kind for kind in _DRAWN if kind in kinds] or list(kinds)[:3]


def _shade(kind: str, theme: Theme) -> str:
    return _KINDS[kind][2 if theme.name == "dark" else 1]


def _windows(window: int) -> str:
    return "the one of the layer" if window == 1 else f"{window} layers"


def _short(token: str) -> str:
    text = token.replace("\n", "\\n").strip() or "␣"
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"

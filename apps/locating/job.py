"""What ``fleke trace`` does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from fleke_flwr.apps.locating.by_layer import edit_by_layer, editable
from fleke_flwr.apps.locating.directory import RESULT, chosen_directory, clear
from fleke_flwr.apps.locating.knowledge import Knowledge, ask
from fleke_flwr.apps.locating.records import Records, read_facts
from fleke_flwr.apps.locating.results import (
    effects_of,
    missing_settings,
    suggestion_of,
    summary_of,
    write_preset,
    write_scores,
)
from fleke_flwr.apps.locating.view import show
from fleke_flwr.apps.reporting.trace_page import write_page
from fleke_flwr.apps.terminal import progress_view
from fleke_flwr.artifacts import write_json
from fleke_flwr.config import RunConfig, parse_overrides
from fleke_flwr.data.readings import EMBEDDED
from fleke_flwr.errors import ConfigError
from fleke_flwr.locate.noise import Noise, check_rule, fitted_noise
from fleke_flwr.locate.tracing import Trace, TraceSettings, trace
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import Progress

PHASE = "traces"


@dataclass(frozen=True)
class TraceOrder:
    """What ``fleke trace`` was asked for.

    Parameters
    ----------
    model, data : str
        As ``model.name`` and ``data.path``.
    settings : TraceSettings
        How facts are traced.
    noise : str
        Rule of the noise.
    limit : int
        How many known facts are traced, the first ones; 0 for all.
    edit : bool or None
        Whether facts are edited layer by layer; by default those of the embedded world are.
    edits : int
        How many of the traced ones.
    overrides : tuple[str, ...]
        ``key=value`` pairs of a run's settings: device, recipe, evaluation.

    Raises
    ------
    ConfigError
        If a number is negative, or there is no such noise.
    """

    model: str
    data: str
    settings: TraceSettings = field(default_factory=TraceSettings)
    noise: str = "s3"
    limit: int = 100
    edit: bool | None = None
    edits: int = 50
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be done before anything is loaded."""
        check_rule(self.noise)
        if self.limit < 0 or self.edits < 1:
            raise ConfigError(
                f"limit {self.limit}, edits {self.edits}: a limit of 0 (all) or more and at least "
                "1 edit are needed"
            )

    @property
    def config(self) -> RunConfig:
        """The settings of a run on this model and data."""
        chosen = {**parse_overrides(self.overrides)}
        return RunConfig.from_flat({**chosen, "model.name": self.model, "data.path": self.data})

    @property
    def wanted_edits(self) -> int:
        """How many facts are to be edited, 0 for none."""
        wanted = self.data == EMBEDDED if self.edit is None else self.edit
        return self.edits if wanted else 0


def run_trace(order: TraceOrder, output: Path | None, console: Console) -> Path:
    """Trace facts, write what was found, and print the most important of it.

    Returns
    -------
    Path
        The directory of the results.

    Raises
    ------
    ConfigError, DataError, ModelError
        Saying what was found and what to do.
    """
    config, directory = order.config, chosen_directory(output)
    with progress_view(console) as progress:
        model = load_model(config.model)
        records = read_facts(model, config.data)
        content, traces = _traced(order, model, records, directory, progress)
    page = write_page(directory, content, traces)
    show(content, records, directory, console)
    console.print(f"\nreport: {page}", markup=False, highlight=False, soft_wrap=True)
    return directory


def _traced(
    order: TraceOrder,
    model: EditableModel,
    records: Records,
    directory: Path,
    progress: Progress,
) -> tuple[dict[str, Any], list[Trace]]:
    """Ask, trace, edit; write everything but the page."""
    settings = order.settings.for_model(model)
    _say_what_is_left_out(order, settings, records, progress)
    knowledge = ask(model, records.usable, order.limit, progress)
    cases = editable(knowledge.known, order.wanted_edits) if order.wanted_edits else []
    noise = fitted_noise(model, order.noise, [record.prompt for record in records.usable])
    started = time.perf_counter()
    traces = _traces(model, knowledge, noise, settings, progress)
    traced = time.perf_counter()
    effects = effects_of(traces)
    suggestion = suggestion_of(effects)
    content: dict[str, Any] = {
        "schema": 1,
        "model": {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "type": model.family.model_type,
            "layers": model.num_layers,
            "dtype": str(model.dtype).removeprefix("torch."),
            "missing_settings": missing_settings(model),
        },
        "data": order.data,
        "settings": _described(settings, noise, order),
        "counts": _counts(records, knowledge),
        **summary_of(traces, effects, suggestion),
        "edited": None,
        "unusable": records.unusable,
        "unknown": [record.place for record in knowledge.unknown],
        "seconds": {"trace": round(traced - started, 3), "edits": 0.0},
    }
    clear(directory)
    write_scores(directory, traces, knowledge)
    if suggestion:
        write_preset(directory, content, suggestion)
    # Before the edits, which take as long again and may be broken off.
    write_json(directory / RESULT, content)
    if cases:
        suggested = suggestion.layers if suggestion else ()
        content["edited"] = edit_by_layer(order.config, model, cases, suggested, progress)
        content["seconds"]["edits"] = round(time.perf_counter() - traced, 3)
        write_json(directory / RESULT, content)
    return content, traces


def _traces(
    model: EditableModel,
    knowledge: Knowledge,
    noise: Noise,
    settings: TraceSettings,
    progress: Progress,
) -> list[Trace]:
    progress.start(PHASE, len(knowledge.known))
    traces = []
    for record in knowledge.known:
        traces.append(trace(model, record.prompt, noise, settings))
        progress.advance(PHASE)
    return traces


def _say_what_is_left_out(
    order: TraceOrder, settings: TraceSettings, records: Records, progress: Progress
) -> None:
    missing = [kind for kind in order.settings.kinds if kind not in settings.kinds]
    if missing:
        progress.line(f"the family's row lacks the parts for {', '.join(missing)}: left out")
    if records.unusable:
        progress.line(f"{len(records.unusable)} records cannot be traced: {records.shown()}")


def _described(settings: TraceSettings, noise: Noise, order: TraceOrder) -> dict[str, Any]:
    return {
        "kinds": list(settings.kinds),
        "samples": settings.samples,
        "window": settings.window,
        "noise": noise.rule,
        "noise_scale": noise.scale,
        "replace": settings.replace,
        "seed": settings.seed,
        "limit": order.limit,
    }


def _counts(records: Records, knowledge: Knowledge) -> dict[str, int]:
    return {
        "records": len(records.usable) + len(records.unusable),
        "unusable": len(records.unusable),
        "asked": knowledge.asked,
        "unknown": len(knowledge.unknown),
        "traced": len(knowledge.known),
    }


def kinds_of(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of kinds."""
    return tuple(item.strip() for item in text.split(",") if item.strip())

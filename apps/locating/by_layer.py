"""Edits of one layer at a time: where a model can really be edited, to see beside the trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fleke_flwr.apps.central import EditSequence
from fleke_flwr.apps.locating.records import Record
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.errors import ConfigError
from fleke_flwr.evaluation.quality import evaluate, summarize
from fleke_flwr.linalg import Prior
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import EditState
from fleke_flwr.types import EvalCase

PHASE = "edits by layer"


def editable(records: Sequence[Record], edits: int) -> list[EvalCase]:
    """Return the first records that say what they can be edited to.

    Raises
    ------
    ConfigError
        If none does.
    """
    cases = [record.case for record in records if record.case is not None][:edits]
    if not cases:
        raise ConfigError(
            "--edit needs records with another answer, such as CounterFact's target_new or the "
            "fields target and original; give those, or trace with --no-edit"
        )
    return cases


def edit_by_layer(
    config: RunConfig,
    model: EditableModel,
    cases: Sequence[EvalCase],
    suggested: Sequence[int],
    progress: Progress,
) -> dict[str, Any]:
    """Edit the same facts at every single layer, and at the suggested ones together.

    Every time on the unedited model, with target vectors of that layer (of the last one, for
    several), and measured on the same records.

    Parameters
    ----------
    config : RunConfig
        Editor, recipe, how it is measured.
    suggested : Sequence[int]
        Layers; a single one is measured anyway.
    progress : Progress
        Told of the phase ``edits by layer``, in layers.

    Returns
    -------
    dict
        ``editor``, ``edits``, ``base`` (figures of the unedited model) and ``at``: figures by
        edited ``layers``.

    Raises
    ------
    ConfigError
        If the recipe is not complete.
    """
    recipe = resolve_recipe(config, model)
    singles = [(layer,) for layer in range(model.num_layers)]
    choices = [*singles, *([tuple(suggested)] if len(suggested) > 1 else [])]
    every = replace(recipe, layers=tuple(range(model.num_layers)))
    priors = known_priors(config, model, every, progress)
    progress.start(PHASE, len(choices))
    at = []
    for layers in choices:
        spec = replace(recipe, layers=layers)
        at.append({"layers": list(layers), **_edited(config, model, cases, spec, priors)})
        progress.advance(PHASE)
    return {
        "editor": config.editor,
        "edits": len(cases),
        "base": _measured(config, model, cases, EditState(model.fingerprint)),
        "at": at,
    }


def _edited(
    config: RunConfig,
    model: EditableModel,
    cases: Sequence[EvalCase],
    spec: EditSpec,
    priors: Mapping[str, Prior],
) -> dict[str, float | None]:
    editor = EDITORS.get(config.editor)(spec)
    work = EditSequence(config, editor, model, priors, Silent())
    work.edit([case.request for case in cases], 1)
    return _measured(config, model, cases, work.state)


def _measured(
    config: RunConfig, model: EditableModel, cases: Sequence[EvalCase], state: EditState
) -> dict[str, float | None]:
    with state.applied(model.model):
        quality = evaluate(model, cases, config.evaluation, config.seed)
    return summarize(quality.sums())

"""How much of an edit's residual is left when the edit is made again: CollabEdit's figure 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.apps.reporting.picture import DARK, LIGHT
from fleke_flwr.apps.reporting.repeats import residual_by_repeat
from fleke_flwr.artifacts import write_json, write_text
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.editors.base import EDITORS, Editor, Targets
from fleke_flwr.editors.direct import located
from fleke_flwr.editors.modes import exchange_statistics, solve_groups
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.linalg import Prior
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import Progress
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import EditState
from fleke_flwr.types import EditRequest, LayerStatistics

THRESHOLDS = (0.1, 0.01)
# With one edited layer every mode is the same ridge problem.
_MODE = "joint"
# A residual below this part of the target vector is the rounding of a network in float32.
_ROUNDING = 1e-5


def run_repeats(
    config: RunConfig, output: Path, edits: int, copies: int, progress: Progress
) -> Path:
    """Make single edits again and again, and read what is left of their residuals.

    CollabEdit eq. 6 and figure 3. With ``q = k^T C^-1 k`` one edit leaves ``1 / (1 + q)`` of its
    residual, ``t`` repeats towards the same target vector ``(1 + q)^-t``, and ``m`` copies in one
    batch, as when ``m`` clients hold the same edit, ``1 / (1 + m q)``. That law is exact for one
    edited layer, so the study edits the last layer of the recipe only. Residuals are read on the
    really edited network, beside the law.

    They are those of the bare prompt with key ``k_0``, while ``k`` is the mean over the recipe's
    contexts. With ``p = k_0^T C^-1 k`` the prompt keeps ``|1 - p / (1 + q)|^t`` and
    ``|1 - m p / (1 + m q)|``: the same without contexts, but with them copies in one batch, however
    many, leave ``|1 - p / q|``. Repeats one after the other aim at the prompt anew and do not stop
    there. ``law_of_prompt`` in the file is this form.

    Departs from the paper in the relative residual ``||z - h|| / ||z - h_0||``: how fast an
    absolute one falls below 0.01 depends on its size. Departs from the released code, which has
    one batch with a duplicated record, in doing what the text says as well.

    Parameters
    ----------
    config : RunConfig
        Model, recipe, records; clients and strategies play no part.
    output : Path
        Directory for ``repeats.json`` and the figure ``repeats.svg``, ``repeats-dark.svg``,
        ``repeats.png`` with its numbers ``repeats.csv``.
    edits : int
        How many records, the first ones, are studied, each by itself on the unedited model.
    copies : int
        Most repeats, and most copies in a batch.
    progress : Progress
        Told about targets and repeats.

    Returns
    -------
    Path
        ``repeats.json``.

    Raises
    ------
    ConfigError
        If ``edits`` or ``copies`` is below 1, or a setting is missing.
    DataError
        If there are fewer records, or the model already puts out every target vector.
    """
    if edits < 1 or copies < 1:
        raise ConfigError(f"{edits} edits, {copies} copies: at least 1 of each is needed")
    requests = _requests(config, edits)
    model = load_model(config.model)
    recipe = resolve_recipe(config, model)
    spec = replace(recipe, layers=recipe.layers[-1:], mode=_MODE)
    if len(recipe.layers) > 1:
        progress.line(f"layer {spec.layers[0]} only: the law holds for one edited layer")
    priors = known_priors(config, model, spec, progress)
    content = {
        "schema": 1,
        "model": config.model.name,
        "dataset": config.data.path,
        "editor": config.editor,
        "layer": spec.layers[0],
        "ridge_weight": spec.ridge_weight,
        "contexts": len(spec.contexts),
        "copies": copies,
        **_measured(_Single(model, spec, config.editor, priors), requests, copies, progress),
    }
    path = output / "repeats.json"
    write_json(path, content)
    picture = residual_by_repeat(content)
    write_text(output / "repeats.svg", picture.svg(LIGHT))
    write_text(output / "repeats-dark.svg", picture.svg(DARK))
    (output / "repeats.png").write_bytes(picture.png())
    write_text(output / "repeats.csv", picture.csv())
    for text in spoken(content):
        progress.line(text)
    return path


def law(q: Sequence[float], copies: int) -> tuple[list[list[float]], list[list[float]]]:
    """Return what eq. 6 predicts for 1 to ``copies`` repeats and copies, one list for each edit.

    Returns
    -------
    tuple[list[list[float]], list[list[float]]]
        Relative residuals ``(1 + q)^-t`` one after the other, and ``1 / (1 + m q)`` in one batch.
    """
    counts = range(1, copies + 1)
    one_by_one = [[(1.0 + value) ** -count for count in counts] for value in q]
    in_one_batch = [[1.0 / (1.0 + count * value) for count in counts] for value in q]
    return one_by_one, in_one_batch


def law_of_prompt(
    q: Sequence[float], p: Sequence[float], copies: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return what the bare prompt keeps where keys are means over contexts, as :func:`law` does."""
    pairs, counts = list(zip(q, p, strict=True)), range(1, copies + 1)
    one_by_one = [[abs(1.0 - own / (1.0 + value)) ** n for n in counts] for value, own in pairs]
    in_one_batch = [
        [abs(1.0 - n * own / (1.0 + n * value)) for n in counts] for value, own in pairs
    ]
    return one_by_one, in_one_batch


def needed(series: Sequence[Sequence[float]], threshold: float) -> float | None:
    """Return the median number of repeats from which on less than ``threshold`` is left.

    ``None`` if that takes the median edit more repeats than were made.
    """
    found = median(_settled(edit, threshold) for edit in series)
    return None if math.isinf(found) else float(found)


def _settled(edit: Sequence[float], threshold: float) -> float:
    """Return from which repeat on an edit is below; copies in a batch may fall and rise again."""
    above = [count for count, left in enumerate(edit, 1) if left >= threshold]
    last = above[-1] if above else 0
    return last + 1 if last < len(edit) else math.inf


def spoken(content: Mapping[str, Any]) -> list[str]:
    """Say in a line for each threshold how many repeats it takes."""

    def said(kind: str, threshold: float) -> str:
        counts = (content[kind]["repeats"][who][str(threshold)] for who in ("measured", "law"))
        texts = [f"more than {content['copies']}" if n is None else f"{n:g}" for n in counts]
        return f"{texts[0]} (law: {texts[1]})"

    return [
        f"repeats until less than {threshold:g} of the residual is left: "
        f"{said('sequential', threshold)}; copies in one batch: {said('batch', threshold)}"
        for threshold in THRESHOLDS
    ]


@dataclass(frozen=True)
class _Single:
    """One edited layer of one model, and the means to edit it and to look at it.

    Parameters
    ----------
    model : EditableModel
        Unedited.
    spec : EditSpec
        With one layer.
    name : str
        The editor's.
    priors : Mapping[str, Prior]
        Of that layer.
    """

    model: EditableModel
    spec: EditSpec
    name: str
    priors: Mapping[str, Prior]

    @property
    def editor(self) -> Editor:
        """The editor as the recipe has it."""
        return located(EDITORS.get(self.name)(self.spec))

    @property
    def reader(self) -> Editor:
        """The editor for the bare prompt: hidden states need no other context."""
        return located(EDITORS.get(self.name)(replace(self.spec, contexts=("{}",))))

    def sizes(self, requests: Sequence[EditRequest]) -> tuple[list[float], list[float]]:
        """Return ``q = k^T C^-1 k`` and ``p = k_0^T C^-1 k`` on the unedited model."""
        (layer,) = self.spec.layers
        prior = self.priors[self.model.module_name(layer)]
        mean, bare = (
            prior.whiten(editor.readings(self.model, requests, [layer]).keys[layer])
            for editor in (self.editor, self.reader)
        )
        return (mean * mean).sum(dim=0).tolist(), (bare * mean).sum(dim=0).tolist()

    def statistics(
        self, state: EditState, request: EditRequest, target: Targets
    ) -> dict[str, LayerStatistics]:
        """Return what a client with this one request contributes to a state's next round."""
        with state.applied(self.model.model):
            return exchange_statistics(self.editor, self.model, [request], target, 0)

    def edited(self, state: EditState, statistics: Mapping[str, LayerStatistics]) -> EditState:
        """Return the state after a round with these statistics."""
        updates = solve_groups(statistics, self.priors, _MODE)
        return state.plus(updates, state.round + 1)

    def residual(self, state: EditState, request: EditRequest, target: Targets) -> float:
        """Return ``||z - h||`` of the bare prompt on the edited network."""
        with state.applied(self.model.model):
            now = self.reader.readings(self.model, [request], self.spec.layers)
        return float(self.reader.residuals(target, now).norm())


def _requests(config: RunConfig, edits: int) -> list[EditRequest]:
    cases = load_cases(config.data).cases
    if len(cases) < edits:
        raise DataError(
            f"{config.data.path} holds {len(cases)} usable records and {edits} are to be edited "
            "again and again; ask for fewer"
        )
    return [case.request for case in cases[:edits]]


def _measured(
    single: _Single, requests: Sequence[EditRequest], copies: int, progress: Progress
) -> dict[str, Any]:
    targets = single.editor.targets(single.model, requests, progress)
    rows = [targets.rows([place]) for place in range(len(requests))]
    base = EditState(single.model.fingerprint)
    start = [
        single.residual(base, request, row) for request, row in zip(requests, rows, strict=True)
    ]
    # A target vector that the model puts out already leaves nothing to relate to.
    least = _ROUNDING * targets.vectors.norm(dim=1)
    kept = [place for place, residual in enumerate(start) if residual > float(least[place])]
    if not kept:
        raise DataError("the model puts out every target vector already: there is nothing to edit")
    progress.start("repeats", 2 * copies * len(kept))
    one_by_one, in_one_batch = [], []
    for place in kept:
        given = (requests[place], rows[place], copies)
        one_by_one.append([left / start[place] for left in _one_by_one(single, *given)])
        progress.advance("repeats", copies)
        in_one_batch.append([left / start[place] for left in _in_one_batch(single, *given)])
        progress.advance("repeats", copies)
    q, p = single.sizes([requests[place] for place in kept])
    laws = {"law": law(q, copies), "law_of_prompt": law_of_prompt(q, p, copies)}
    return {
        "edits": len(kept),
        "already_known": len(requests) - len(kept),
        "case_ids": [requests[place].case_id for place in kept],
        "q": q,
        "p": p,
        "residual": [start[place] for place in kept],
        "sequential": _compared(one_by_one, {who: found[0] for who, found in laws.items()}),
        "batch": _compared(in_one_batch, {who: found[1] for who, found in laws.items()}),
    }


def _one_by_one(single: _Single, request: EditRequest, target: Targets, copies: int) -> list[float]:
    """Edit in one round after another, each on the model as the last one left it."""
    state, left = EditState(single.model.fingerprint), []
    for _ in range(copies):
        state = single.edited(state, single.statistics(state, request, target))
        left.append(single.residual(state, request, target))
    return left


def _in_one_batch(
    single: _Single, request: EditRequest, target: Targets, copies: int
) -> list[float]:
    """Merge 1, 2, ... clients that all hold the request."""
    base, left = EditState(single.model.fingerprint), []
    one = single.statistics(base, request, target)
    merged = one
    for _ in range(copies):
        left.append(single.residual(single.edited(base, merged), request, target))
        merged = {name: statistics + one[name] for name, statistics in merged.items()}
    return left


def _compared(
    measured: list[list[float]], predicted: Mapping[str, list[list[float]]]
) -> dict[str, Any]:
    series = {"measured": measured, **predicted}
    return {
        **series,
        "repeats": {
            who: {str(threshold): needed(found, threshold) for threshold in THRESHOLDS}
            for who, found in series.items()
        },
    }

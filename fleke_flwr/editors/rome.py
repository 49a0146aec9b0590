"""ROME: rank-one model editing (Meng et al., 2022), one request after the other.

Letters: ``n`` requests, ``d`` residual width, ``f`` input width of the edited projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fleke_flwr.config import TARGET_SETTINGS
from fleke_flwr.editors import covariance, keys
from fleke_flwr.editors.base import Moments, UpdateEditor
from fleke_flwr.editors.entry import Entry, Passage
from fleke_flwr.editors.memit import low_loss
from fleke_flwr.editors.rows import Begun
from fleke_flwr.editors.targets import optimise_targets
from fleke_flwr.errors import ConfigError, StatisticsError
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import carried, run_blocks
from fleke_flwr.models.hooks import captured_outputs
from fleke_flwr.models.placement import take
from fleke_flwr.models.weights import substituted
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest, LayerUpdate
from fleke_flwr.values import Scalar, one_of

_SILENT = Silent()
_KEYS = ("mean", "bare", "released")
_NAMED = 10


class Rome(UpdateEditor):
    """Rank-one updates of one layer, each on the model that carries the earlier ones.

    Implementation based on https://arxiv.org/abs/2202.05262 and the authors' released code. The
    update of a request is ``(v - W k) u^T / (k . u)`` with ``u = C^-1 k`` (eq. 2), which lets the
    projection put ``v`` out for ``k`` and disturbs stored keys least.

    Which key stands where is the option ``key``. ``mean``, the default, takes the mean over the
    contexts in both places: that is what the paper derives, and ``k . u`` cannot be small, since
    ``C`` is positive definite. ``bare`` takes the bare prompt's key in both places. ``released``
    does as the released code: ``u`` from the mean key, everything else from the bare prompt's,
    whose product may come close to 0 and then gives an update that ruins the model ("disabling
    edits"; https://arxiv.org/abs/2403.07175 names the cause, and R-ROME as the remedy). A request
    is left out, and named, when the cosine of its two keys in the metric of ``C^-1`` is below
    ``least-overlap``: one over this cosine is how many times larger, in the metric of ``C``, the
    update is than the smallest one with the same effect.

    Departs from the released code in the contexts, which are those of all editors, and in solving
    with ``C`` in float64 instead of inverting it in its stored format. Only the direction of
    ``C^-1 k`` counts, so ``edit.ridge-weight`` has no effect.
    """

    settings: ClassVar[tuple[str, ...]] = tuple(
        name for name in TARGET_SETTINGS if name != "ridge_weight"
    )
    options: ClassVar[Mapping[str, Scalar]] = {"key": "mean", "least-overlap": 0.05}

    def check(self, model: EditableModel) -> None:
        """Refuse several layers and unknown parameters.

        Raises
        ------
        ConfigError
            If ``layers`` are not exactly one, or a parameter has no such value.
        ModelError
            If the model has no such layer.
        """
        super().check(model)
        layers = self.spec.layers
        if len(layers) != 1:
            raise ConfigError(
                f"edit.layers = {','.join(map(str, layers))}: rome edits a single layer; "
                f"give one, for example edit.layers = {layers[-1]}"
            )
        one_of("edit.options: key", self.text("key"), _KEYS)
        if not 0.0 <= self.number("least-overlap") < 1.0:
            raise ConfigError(
                f"edit.options: least-overlap = {self.number('least-overlap'):g}: "
                "a cosine from 0 up to, but not including, 1 is needed"
            )

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        """Return the covariance with weight 1: any other gives the same updates."""
        return covariance.priors(moments(), 1.0)

    def updates(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        priors: Mapping[str, Prior],
        progress: Progress = _SILENT,
    ) -> dict[str, LayerUpdate]:
        """Return the sum of all updates as factors, one column for each request that leaves one.

        Raises
        ------
        ConfigError
            If several layers are to be edited.
        StatisticsError
            If the covariance is missing, or a loss becomes NaN or infinite.
        """
        self.check(model)
        (module,) = self.modules(model)
        if module not in priors:
            raise StatisticsError(f"no prior for {module}; fleke covariance makes its covariance")
        # What enters the only edited layer depends on no edit, so all keys are read at once.
        found = _read_keys(model, self.spec, requests, self.text("key"))
        directions = _solve(priors[module], found)
        weight = model.weight_of(module).to("cpu", torch.float64, copy=True)
        change = torch.zeros_like(weight)
        columns: list[Tensor] = []
        chosen: list[int] = []
        progress.start("targets", len(requests))
        for item, request in enumerate(requests):
            if directions.overlaps[item] > self.number("least-overlap"):
                with substituted(model.model, {module: change}):
                    wanted = self._wanted(model, request)
                at, bare = found.at[:, item], found.bare[:, item]
                columns.append(wanted - (weight + change) @ (at - bare))
                chosen.append(item)
                change.addr_(columns[-1], directions.rights[:, item])
            progress.advance("targets")
        self._tell(requests, directions, chosen, progress)
        left = torch.stack(columns, 1) if columns else change[:, :0]
        return {module: LayerUpdate(left, directions.rights[:, chosen].T.contiguous())}

    def _wanted(self, model: EditableModel, request: EditRequest) -> Tensor:
        """Return how the MLP's output ``(d,)`` for the bare prompt should change."""
        target = optimise_targets(model, self.spec, [request], _SILENT, MlpOutput(), low_loss)
        return (target.vectors - target.initial)[0].double()

    def _tell(
        self,
        requests: Sequence[EditRequest],
        directions: _Directions,
        chosen: Sequence[int],
        progress: Progress,
    ) -> None:
        """Name the requests that left no update."""
        refused = sorted(set(range(len(requests))) - set(chosen))
        if not refused:
            return
        named = ", ".join(
            f"{requests[item].case_id} ({float(directions.overlaps[item]):.2g})"
            for item in refused[:_NAMED]
        )
        more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        progress.line(
            f"rome: {len(refused)} of {len(requests)} edits were left out, since the keys of their "
            f"contexts and of the bare prompt overlap by {self.number('least-overlap'):g} or less: "
            f"{named}{more}; edit.options = key=mean makes them"
        )


@dataclass(frozen=True)
class _Keys:
    """Keys of ``n`` requests.

    Parameters
    ----------
    along : Tensor
        Whose direction the updates take, ``(f, n)``.
    at : Tensor
        For which the projection is to put out the targets, ``(f, n)``.
    bare : Tensor
        Of the bare prompts, ``(f, n)``.
    """

    along: Tensor
    at: Tensor
    bare: Tensor


def _read_keys(
    model: EditableModel, spec: EditSpec, requests: Sequence[EditRequest], key: str
) -> _Keys:
    (layer,) = spec.layers
    alone = replace(spec, contexts=spec.contexts[:1])
    bare = keys.read(model, alone, requests, [layer]).keys[layer]
    if key == "bare":
        return _Keys(bare, bare, bare)
    # The readings give the bare prompt one half; ROME's mean gives it the weight of any other.
    count, halved = len(spec.contexts), keys.read(model, spec, requests, [layer]).keys[layer]
    mean = (2 * (count - 1) * halved - (count - 2) * bare) / count
    return _Keys(mean, mean if key == "mean" else bare, bare)


@dataclass(frozen=True)
class _Directions:
    """Right vectors of ``n`` updates.

    Parameters
    ----------
    rights : Tensor
        ``C^-1 k / (k' . C^-1 k)``, ``(f, n)``: the product with ``k'``, at which the target is to
        come out, is 1.
    overlaps : Tensor
        Cosine of ``k`` and ``k'`` in the metric of ``C^-1``, ``(n,)``; NaN for a key of zeros.
    """

    rights: Tensor
    overlaps: Tensor


def _solve(prior: Prior, found: _Keys) -> _Directions:
    along, at = prior.whiten(found.along), prior.whiten(found.at)
    products = (along * at).sum(0)
    overlaps = products / (along.norm(dim=0) * at.norm(dim=0))
    return _Directions(prior.unwhiten(along) / products, overlaps)


class MlpOutput(Entry):
    """One change, added to the output of the edited projection (ROME)."""

    def read(self, model: EditableModel, layer: int, begun: Begun) -> Passage:
        """Run everything up to the block's output, looking at its projection's."""
        with captured_outputs({"mlp": model.projection(layer)}) as captured:
            hidden, _ = run_blocks(model, begun.hidden, begun.part, 0, layer + 1)
        projected = take(captured["mlp"].view_as(hidden), begun.where)
        rest = take(hidden, begun.where) - carried(model, layer, "after_mlp", projected)
        return Passage(hidden, torch.stack([rest, projected], 1), projected[:, None])

    def enter(self, model: EditableModel, layer: int, entering: Tensor, change: Tensor) -> Tensor:
        """Add the change, and carry it through the norm that may follow."""
        rest, projected = entering.unbind(1)
        return rest + carried(model, layer, "after_mlp", projected + change[:, 0])

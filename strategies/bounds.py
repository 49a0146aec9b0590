"""How much one client's contribution does to the shared model, measured where text is ordinary.

Letters: ``W (d_out, d_in)`` the base weight of a projection, ``C = L L^T (d_in, d_in)`` its prior,
``lambda`` the ridge weight, ``U (d_in, r)`` and ``F (d_out, r)`` factors of a contribution with
``S = U U^T``, ``B = F U^T``; ``G = U^T C^-1 U (r, r)``; ``Delta`` what the contribution would write
if it were alone.

The prior is ``lambda`` times the second moment of ordinary keys, so ``L`` turns norms into figures
about ordinary text: ``|Delta L|_F / |W L|_F`` is the root mean square change of a layer's output,
relative to that output (without its bias), and ``tr(C^-1 S) / (n d_in / lambda)`` the mean squared
length of ``n`` keys, 1 for those of ordinary tokens. Edits of different subjects add up like
independent ones, so the change grows with the root of their number, and is bounded per root.

Both are needed. The change alone lets a client send long keys with no residuals, which write
nothing by themselves and keep everybody else's edits from being written.

From factors nothing larger than ``r x r`` is solved: with ``X = F (I + G)^-1`` the change is
``tr(X G X^T)``, and ``G`` costs one triangular solve, ``d_in^2 r``. Dense sums cost a client about
two and a half times what the pooled solve costs once: a factorisation of ``S``, which proves that
it is one of keys, the client's own solve, and one triangular solve for the length. A factor of a
prior that is too large to be kept is made again for every client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from fleke_flwr.errors import PayloadError, StatisticsError
from fleke_flwr.factoring import add_symmetric
from fleke_flwr.linalg import Prior, solve_group, stack
from fleke_flwr.modes import STACKED
from fleke_flwr.types import (
    EditPayload,
    LayerStatistics,
    LayerUpdate,
    MemoryVectors,
    group_modules,
    group_name,
)

# Part of the prior by which dense sums may fall short of a sum of squares, as float32 makes them.
# Fewer clients than its reciprocal leave the pooled system solvable, whatever they send.
_ROUNDING = 1e-2
# How far above the largest honest change of a target vector one may lie.
_ROOM = 2.0


@dataclass(frozen=True)
class Effect:
    """What a contribution does to one projection.

    Parameters
    ----------
    change : float
        ``|Delta L|_F``.
    length : float
        ``tr(C^-1 S)``; 0 for an update, whose keys nobody knows.
    """

    change: float
    length: float = 0.0


def output_norm(weight: Tensor, prior: Prior) -> float:
    """Return ``|W L|_F`` of a weight ``(d_out, d_in)`` in math orientation."""
    return _change(LayerUpdate(weight), prior)


def effects(statistics: LayerStatistics, priors: Sequence[Prior], in_turn: bool) -> list[Effect]:
    """Measure the statistics of a group of projections, solved for themselves alone.

    Parameters
    ----------
    statistics : LayerStatistics
        Factors without signs, or dense sums.
    priors : Sequence[Prior]
        One for each projection of the group, in layer order.
    in_turn : bool
        See :func:`fleke_flwr.linalg.solve_group`.

    Returns
    -------
    list[Effect]
        One for each projection.

    Raises
    ------
    PayloadError
        If dense sums are not those of any keys, or the numbers are too large to be solved with.
    """
    if statistics.is_factored:
        return _of_factors(statistics, priors, in_turn)
    return _of_sums(statistics, priors, in_turn)


@dataclass(frozen=True)
class Bounds:
    """What one client may do; a contribution beyond it is refused.

    Parameters
    ----------
    change : float
        Largest change of a layer's output on ordinary text, relative to that output, that one edit
        may make; ``n`` edits may make ``sqrt(n)`` times as much. 0 for any.
    leverage : float
        Largest mean squared length of a client's keys, relative to an ordinary token's; 0 for any.
    ridge_weight : float
        ``lambda`` of the priors.
    output_norms : Mapping[str, float]
        :func:`output_norm` of the base weights, by module.
    measured : bool
        Whether the priors are covariances. Contributions to others (MALMEN's unit matrix,
        AlphaEdit's null space, no prior at all) are only checked for their counts.
    """

    change: float
    leverage: float
    ridge_weight: float
    output_norms: Mapping[str, float] = field(default_factory=dict)
    measured: bool = True

    def check(
        self, payload: EditPayload, priors: Mapping[str, Prior], mode: str, most_edits: int
    ) -> None:
        """Refuse a contribution that does too much, or that could break the pooled solve.

        Without bounds the second is still refused: counts that do not fit, sums that belong to no
        keys, numbers that overflow.

        Parameters
        ----------
        payload : EditPayload
            As it was received.
        priors : Mapping[str, Prior]
            By module.
        mode : str
            Of the run.
        most_edits : int
            Number of requests that the client can stand behind: those it has announced and what it
            was told to add.

        Raises
        ------
        PayloadError
            Naming what was measured, what is allowed, and the setting.
        """
        _check_count("edits", payload.num_edits, most_edits)
        if not self.measured:
            for group, statistics in payload.statistics.items():
                _check_count(f"group {group!r}: edits", statistics.count, most_edits)
            return
        for group, statistics in payload.statistics.items():
            _check_count(f"group {group!r}: edits", statistics.count, most_edits)
            _check_columns(group, statistics)
            modules = group_modules(group)
            found = effects(statistics, [priors[m] for m in modules], mode == "anticipated")
            for module, effect in zip(modules, found, strict=True):
                self._check_change(module, effect.change, statistics.count)
                self._check_length(module, effect.length, statistics.count * priors[module].d_in)
        for module, update in payload.updates.items():
            change = _change(update, priors[module])
            if payload.num_edits == 0 and change != 0.0:
                raise PayloadError(f"an update of {module!r} comes with no edits")
            self._check_change(module, change, payload.num_edits)

    def check_vectors(
        self, vectors: MemoryVectors, priors: Mapping[str, Prior], mode: str, noise: float
    ) -> None:
        """Refuse memory vectors that would do too much to a receiver's model.

        Measured like the statistics that a receiver makes of them, the residual taken once. With
        ``noise`` keys point where no text does, which :attr:`leverage` would count as long: then
        their plain squared length is compared, ``|U|^2 / (n tr(C) / lambda)``.

        Parameters
        ----------
        vectors : MemoryVectors
            Of one upload; without keys, where texts are exchanged, nothing is known here.
        priors : Mapping[str, Prior]
            By module.
        mode : str
            Of the run.
        noise : float
            Relative length of the noise that clients add.

        Raises
        ------
        PayloadError
            As :meth:`check`.
        """
        for group, statistics in _statistics_of(vectors, mode).items() if self.measured else ():
            modules = group_modules(group)
            found = effects(statistics, [priors[m] for m in modules], mode == "anticipated")
            for module, effect in zip(modules, found, strict=True):
                self._check_change(module, effect.change, len(vectors))
                if not noise:
                    width = priors[module].d_in
                    self._check_length(module, effect.length, len(vectors) * width)
        if noise and self.measured:
            for module, keys in vectors.keys.items():
                ordinary = float(priors[module].blocks[0].square().sum()) * (1 + noise**2)
                self._check_length(module, float(keys.square().sum()), len(vectors) * ordinary)

    def _check_change(self, module: str, change: float, edits: int) -> None:
        if not math.isfinite(change):
            raise PayloadError(f"{module!r}: the change overflows; the numbers are too large")
        if not self.change:
            return
        part, allowed = change / self.output_norms[module], self.change * math.sqrt(edits)
        if part > allowed:
            raise PayloadError(
                f"alone it changes the output of {module!r} on ordinary text by {part:.3g} of "
                f"itself, and bound.change = {self.change:g} allows {allowed:.3g} for {edits} edits"
            )

    def _check_length(self, module: str, length: float, ordinary: float) -> None:
        """Compare a sum of squared lengths with ``lambda`` times that of ordinary keys."""
        if not math.isfinite(length):
            raise PayloadError(f"{module!r}: the keys overflow; the numbers are too large")
        if not self.leverage or not ordinary:
            return
        leverage = length * self.ridge_weight / ordinary
        if leverage > self.leverage:
            raise PayloadError(
                f"the keys of {module!r} are {leverage:.3g} times as long, squared, as those of "
                f"ordinary tokens, and bound.leverage = {self.leverage:g} is allowed"
            )


def check_targets(vectors: MemoryVectors, clamp: float, noise: float) -> None:
    """Refuse target vectors further from their hidden states than an editor can bring them.

    An editor keeps ``|z - h| <= clamp |h|``. Noise of relative length ``s`` on both adds
    ``s (|z| + |h|) <= s (2 + clamp) |h|``. Twice the sum is allowed.

    Raises
    ------
    PayloadError
        Naming the furthest one.
    """
    if not len(vectors):
        return
    asked = (vectors.targets - vectors.hidden).norm(dim=1)
    most = _ROOM * (clamp + noise * (2 + clamp)) * vectors.hidden.norm(dim=1)
    if not bool((asked <= most).all()):
        worst = int((asked - most).argmax())
        raise PayloadError(
            f"target vector {worst} is {float(asked[worst]):.3g} from its hidden state, and "
            f"edit.clamp = {clamp:g} allows {float(most[worst]):.3g} at most"
        )


def _of_factors(
    statistics: LayerStatistics, priors: Sequence[Prior], in_turn: bool
) -> list[Effect]:
    keys, residuals = (part.to(torch.float64) for part in statistics.factors())
    sizes = [prior.d_in for prior in priors]
    whitened = [
        prior.whiten(rows) for prior, rows in zip(priors, torch.split(keys, sizes), strict=True)
    ]
    grams = [columns.T @ columns for columns in whitened]
    if not in_turn:
        written = _solved(sum(grams[1:], grams[0]), residuals)
        return [_effect(written, gram) for gram in grams]
    found, left = [], residuals
    for index, gram in enumerate(grams):
        written = _solved(gram, left / (len(grams) - index))
        found.append(_effect(written, gram))
        left = left - written @ gram
    return found


def _solved(gram: Tensor, residuals: Tensor) -> Tensor:
    """Return ``X = F (I + G)^-1``."""
    matrix = gram.clone()
    matrix.diagonal().add_(1.0)
    solution: Tensor = torch.cholesky_solve(residuals.T, _factor(matrix)).T
    return solution


def _effect(written: Tensor, gram: Tensor) -> Effect:
    square = float((written @ gram * written).sum())
    return Effect(math.sqrt(abs(square)), float(gram.trace()))


def _of_sums(statistics: LayerStatistics, priors: Sequence[Prior], in_turn: bool) -> list[Effect]:
    gram, _ = statistics.sums()
    matrix = torch.zeros_like(gram, dtype=torch.float64)
    stack(priors).add_to(matrix)
    matrix.mul_(_ROUNDING)
    add_symmetric(matrix, gram)
    factor = _factor(matrix)
    try:
        updates = solve_group(statistics, priors, in_turn)
    except StatisticsError as error:
        raise PayloadError(f"the sums cannot be solved with: {error}") from error
    ends = [0, *accumulate(prior.d_in for prior in priors)]
    found = []
    for prior, update, (start, stop) in zip(priors, updates, pairwise(ends), strict=True):
        # Rows of M with M M^T = S + rounding C: tr(C^-1 S) = |L^-1 M|^2 - rounding d_in.
        length = float(prior.whiten(factor[start:stop, :stop]).square().sum())
        found.append(Effect(_change(update, prior), max(length - _ROUNDING * prior.d_in, 0.0)))
    return found


def _factor(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor of a matrix whose lower triangle is set."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 or not bool(torch.isfinite(factor.diagonal()).all()):
        raise PayloadError(
            "the statistics are those of no keys: their second moments are not positive "
            "semidefinite, or so large that they overflow"
        )
    return factor


def _change(update: LayerUpdate, prior: Prior) -> float:
    """Return ``|Delta L|_F`` without writing a product of few columns out."""
    (factor,) = prior.blocks
    wide = update.to(torch.float64)
    if wide.right is None:
        return float((wide.left @ factor).norm())
    moved = wide.right @ factor
    square = float(((wide.left.T @ wide.left) * (moved @ moved.T)).sum())
    return math.sqrt(abs(square))


def _check_count(what: str, count: int, most: int) -> None:
    if not 0 <= count <= most:
        raise PayloadError(f"{what}: {count}, and this client can stand behind {most} at most")


def _check_columns(group: str, statistics: LayerStatistics) -> None:
    """Refuse statistics of more keys than there are edits behind them."""
    if statistics.is_factored:
        columns = int(statistics.factors()[0].shape[1])
        if columns > statistics.count:
            raise PayloadError(
                f"group {group!r} has {columns} columns for {statistics.count} edits"
            )
    elif statistics.count == 0 and any(bool(part.any()) for part in statistics.sums()):
        raise PayloadError(f"group {group!r} has sums of no edits")


def _statistics_of(vectors: MemoryVectors, mode: str) -> dict[str, LayerStatistics]:
    if not vectors.keys:
        return {}
    modules = tuple(vectors.keys)
    groups = [modules] if mode in STACKED else [(module,) for module in modules]
    asked = (vectors.targets - vectors.hidden).T / len(groups)
    return {
        group_name(group): LayerStatistics(
            len(vectors), keys=torch.cat([vectors.keys[m].T for m in group]), residuals=asked
        )
        for group in groups
    }

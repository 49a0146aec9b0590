"""Total and indirect effects, averaged over facts by what a token is to its prompt.

Letters: ``L`` layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from torch import Tensor

from fleke_flwr.locate.tracing import Trace

FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
)
FIRST_AFTER, FURTHER, LAST = "first subsequent token", "further tokens", "last token"
ROLES = (FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, FIRST_AFTER, FURTHER, LAST)


@dataclass(frozen=True)
class Mean:
    """A mean with half of its 95 % interval, ``1.96 std / sqrt(count)``.

    Parameters
    ----------
    value : float
        The mean.
    half : float or None
        Of the population deviation, as in the papers' notebook; a single value has no interval.
    count : int
        How many values.
    """

    value: float
    half: float | None
    count: int


@dataclass(frozen=True)
class Effect:
    """The average indirect effect of one kind at tokens of one role.

    Parameters
    ----------
    layers : tuple[Mean, ...]
        By layer; empty if no prompt has such a token.
    """

    layers: tuple[Mean, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The means alone."""
        return tuple(mean.value for mean in self.layers)


def role_of(trace: Trace, token: int) -> str:
    """Say what a token is to its prompt; empty for those before the subject.

    A token has one role, the later one of two that fit. So a subject of a single token is its last,
    and one that ends the prompt counts as the last token alone: both sites that the papers tell
    apart would lie there. The papers' notebook counts a token in every row that fits.
    """
    if token < trace.start:
        return ""
    last = len(trace.tokens) - 1
    if token == last:
        return LAST
    if token >= trace.stop:
        return FIRST_AFTER if token == trace.stop else FURTHER
    if token == trace.stop - 1:
        return LAST_SUBJECT
    return FIRST_SUBJECT if token == trace.start else MIDDLE_SUBJECT


def mean_of(values: Sequence[float]) -> Mean:
    """Return mean and interval of some values, one at least."""
    count = len(values)
    half = 1.96 * pstdev(values) / math.sqrt(count) if count > 1 else None
    return Mean(fmean(values), half, count)


def total_effect(traces: Sequence[Trace]) -> Mean:
    """Return the average total effect ``ATE``: what the noise takes from the answer."""
    return mean_of([trace.high - trace.low for trace in traces])


def indirect_effects(traces: Sequence[Trace], kind: str) -> dict[str, Effect]:
    """Return the average indirect effect ``AIE`` by role: what restoring gives back.

    Every token of a role counts once, against the corrupted run of its own fact, where the papers'
    notebook takes the mean of all corrupted runs off the mean of all tokens.

    Parameters
    ----------
    traces : Sequence[Trace]
        Of facts that the model knows, one at least.
    kind : str
        One that was traced.
    """
    rows: dict[str, list[Tensor]] = {role: [] for role in ROLES}
    for trace in traces:
        for token in range(trace.start, len(trace.tokens)):
            rows[role_of(trace, token)].append(trace.scores[kind][token] - trace.low)
    return {role: _effect(found) for role, found in rows.items()}


def _effect(rows: Iterable[Tensor]) -> Effect:
    """Average rows ``(L,)``."""
    found = list(rows)
    if not found:
        return Effect(())
    return Effect(tuple(mean_of(column) for column in torch.stack(found).T.tolist()))

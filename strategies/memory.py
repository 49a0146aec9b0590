"""What the server knows of earlier rounds, in three ways.

``none``: nothing but the edited model; a round starts from it, and what is overwritten is lost.
``dynamic``: the keys of all past edits, whose outputs the prior protects (CollabEdit, eq. 7).
``statistics``: the sums of all rounds, read on the base model; every round's model is the edit of
everything so far, solved from the base, so nothing is forgotten and anything can be withdrawn.

Letters: ``U (d_in, r)`` factors of keys, ``F (d_out, r)`` of residuals; ``S``, ``B`` their sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fleke_flwr.types import LayerStatistics


class Memory:
    """Past rounds of one run, by group of projections.

    Parameters
    ----------
    kind : str
        ``none``, ``dynamic`` or ``statistics``.
    beta0, beta1 : float
        Of ``dynamic``: the solve is ``B (beta0 C + beta1 sum_past S + S)^-1``.
    """

    def __init__(self, kind: str, beta0: float = 1.0, beta1: float = 1.0) -> None:
        self.kind = kind
        self._beta0, self._beta1 = beta0, beta1
        self.past: dict[str, LayerStatistics] = {}

    def system(self, group: str, running: LayerStatistics) -> LayerStatistics:
        """Return what is solved when a group of this round amounts to ``running``."""
        past = self.past.get(group)
        if self.kind == "statistics":
            return running if past is None else past + running
        if self.kind == "none":
            return running
        # Dividing both sums by beta0 is the same as weighing the covariance with it.
        weighed = _scaled(running, 1 / self._beta0)
        return weighed if past is None else weighed + _scaled(past, self._beta1 / self._beta0)

    def close(self, running: Mapping[str, LayerStatistics]) -> None:
        """Keep what a finished round adds."""
        if self.kind == "none":
            return
        for group, statistics in running.items():
            kept = statistics if self.kind == "statistics" else _keys_alone(statistics)
            known = self.past.get(group)
            self.past[group] = kept if known is None else known + kept


def _scaled(statistics: LayerStatistics, factor: float) -> LayerStatistics:
    if not statistics.is_factored:
        gram, cross = statistics.sums()
        return LayerStatistics(statistics.count, gram=gram * factor, cross=cross * factor)
    assert statistics.keys is not None
    assert statistics.residuals is not None
    root = factor**0.5
    return LayerStatistics(
        statistics.count,
        keys=statistics.keys * root,
        residuals=statistics.residuals * root,
        signs=statistics.signs,
    )


def _keys_alone(statistics: LayerStatistics) -> LayerStatistics:
    """Return the statistics of the same keys whose outputs shall stay as they are."""
    if not statistics.is_factored:
        gram, cross = statistics.sums()
        return LayerStatistics(0, gram=gram, cross=torch.zeros_like(cross))
    assert statistics.keys is not None
    assert statistics.residuals is not None
    return LayerStatistics(
        0,
        keys=statistics.keys,
        residuals=torch.zeros_like(statistics.residuals),
        signs=statistics.signs,
    )

"""Means and deviations of token rows: summed up over the training data, then never changed.

Letters: ``d`` width of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.errors import StatisticsError

# A column that hardly varied in training would otherwise be blown up wherever it does vary.
_LEAST_DEVIATION = 1e-2


@dataclass(frozen=True)
class Normalizer:
    """Frozen statistics of one module's token rows.

    MEND and MALMEN go on updating theirs while they edit and validate, so that two clients would
    use different ones and their edits could not be merged exactly. This one has no way to change.

    Parameters
    ----------
    mean, deviation : Tensor
        ``(d,)``.
    """

    mean: Tensor
    deviation: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Return ``(rows - mean) / deviation`` for ``(tokens, d)``."""
        return (rows - self.mean) / self.deviation


class RunningMoments:
    """Pooled mean and variance of rows that come in batches of any size.

    Chan, Golub and LeVeque's update in float64. MALMEN's ``RunningMeanStd`` adds the unbiased
    variance of a batch times its size, which is not the pooled sum of squares and fails on a batch
    of one.

    Parameters
    ----------
    width : int
        ``d``.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Add ``(tokens, d)``; no tokens are legal."""
        if not len(rows):
            return
        new = rows.to(torch.float64)
        mean = new.mean(dim=0)
        total = self.count + len(new)
        apart = mean - self.mean
        self.squares += (new - mean).square().sum(dim=0)
        self.squares += apart.square() * (self.count * len(new) / total)
        self.mean = self.mean + apart * (len(new) / total)
        self.count = total

    def frozen(self) -> Normalizer:
        """Return what has been pooled.

        The deviation is the population's. It is never below a hundredth of its own root mean
        square over the row, where the papers' codes add 1e-7.

        Raises
        ------
        StatisticsError
            If no row was seen, or all were equal.
        """
        if not self.count:
            raise StatisticsError("the normaliser has seen no token; give records to train on")
        variance = self.squares / self.count
        floor = _LEAST_DEVIATION * variance.mean().sqrt()
        if not floor > 0:
            raise StatisticsError(
                f"the {self.count} token rows that the normaliser has seen are all equal; "
                "give more records to train on"
            )
        return Normalizer(self.mean.clone(), variance.sqrt().clamp(min=float(floor)))

"""The sum of contributions, formed as they come in.

Letters: ``U (d_in, r)`` factors of keys, ``F (d_out, r)`` of residuals; ``S``, ``B`` their sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fleke_flwr.types import EditPayload, LayerStatistics


class Pool:
    """Adds contributions of statistics up, in float64 where they become sums.

    A dense contribution is as large as the sum, so it is added and let go. Factors are laid side by
    side as long as they take less room than the sum, which is exact and needs no copy for every
    client; beyond that they are multiplied out, too, so that the room does not grow with the
    number of clients.
    """

    def __init__(self) -> None:
        self._first: EditPayload | None = None
        self._edits = 0
        self._groups: dict[str, _Group] = {}

    def add(self, payload: EditPayload) -> None:
        """Add one contribution."""
        if self._first is None:
            self._first = replace(payload, statistics={})
        self._edits += payload.num_edits
        for name, statistics in payload.statistics.items():
            self._groups.setdefault(name, _Group()).add(statistics)

    def contents(self) -> Sequence[EditPayload]:
        """Return the sum as one contribution; nothing if nothing was added."""
        if self._first is None:
            return []
        statistics = {name: group.statistics() for name, group in self._groups.items()}
        return [replace(self._first, num_edits=self._edits, statistics=statistics)]


class _Group:
    """The sum of one group of projections."""

    def __init__(self) -> None:
        self._count = 0
        self._columns = 0
        self._factors: list[tuple[Tensor, Tensor]] = []
        self._sums: tuple[Tensor, Tensor] | None = None

    def add(self, statistics: LayerStatistics) -> None:
        self._count += statistics.count
        if not statistics.is_factored:
            self._add_sums(*statistics.sums())
            return
        keys, residuals = statistics.factors()
        self._factors.append((keys, residuals))
        self._columns += keys.shape[1]
        if self._sums is not None or self._columns > statistics.d_in:
            self._multiply_out()

    def statistics(self) -> LayerStatistics:
        if self._sums is not None:
            gram, cross = self._sums
            return LayerStatistics(self._count, gram=gram, cross=cross)
        if len(self._factors) == 1:
            keys, residuals = self._factors[0]
        else:
            keys, residuals = (
                torch.cat(parts, dim=1) for parts in zip(*self._factors, strict=True)
            )
        return LayerStatistics(self._count, keys=keys, residuals=residuals)

    def _add_sums(self, gram: Tensor, cross: Tensor) -> None:
        if self._sums is None:
            self._sums = gram.to(torch.float64), cross.to(torch.float64)
        else:
            self._sums[0].add_(gram)
            self._sums[1].add_(cross)

    def _multiply_out(self) -> None:
        while self._factors:
            keys, residuals = (part.to(torch.float64) for part in self._factors.pop(0))
            if self._sums is None:
                d_in, d_out = len(keys), len(residuals)
                self._sums = keys.new_zeros(d_in, d_in), keys.new_zeros(d_out, d_in)
            self._sums[0].addmm_(keys, keys.T)
            self._sums[1].addmm_(residuals, keys.T)

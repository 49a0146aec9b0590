"""A solution that grows equals the one that is solved at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fleke_flwr.growing import GrowingSolution
from fleke_flwr.linalg import Prior, solve_group
from fleke_flwr.prior import SubspaceBlock
from fleke_flwr.types import LayerStatistics

WIDTHS, OUT = (7, 5, 6), 4


def priors() -> list[Prior]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for width in WIDTHS:
        samples = torch.randn(width, 4 * width, generator=generator, dtype=torch.float64)
        found.append(Prior.from_matrix(samples @ samples.T))
    return found


def subspaces() -> list[Prior]:
    """Return two matrices and, between them, a subspace."""
    first, middle, last = priors()
    basis = torch.linalg.qr(middle.matrix())[0][:, :3]
    return [first, Prior.of([SubspaceBlock(basis, 0.5)]), last]


def test_identities_tell_priors_and_modes_apart() -> None:
    kinds = [(made(), mode) for made in (priors, subspaces) for mode in ("joint", "frozen")]
    found = [GrowingSolution(one, mode).identity for one, mode in kinds]
    assert len(set(found)) == 4
    assert GrowingSolution(subspaces(), "joint").identity == found[2]


@pytest.mark.parametrize("make_priors", [priors, subspaces])
@pytest.mark.parametrize("mode", ["joint", "anticipated", "frozen"])
@pytest.mark.parametrize("parts", [[5], [3, 2], [0, 4, 0, 1], [1, 1, 1, 9]])
def test_growing_is_solving_at_once(
    mode: str, parts: list[int], make_priors: Callable[[], list[Prior]]
) -> None:
    generator = torch.Generator().manual_seed(len(parts))
    solution = GrowingSolution(make_priors(), mode)
    pieces = []
    for size in parts:
        keys = [torch.randn(w, size, generator=generator, dtype=torch.float64) for w in WIDTHS]
        residuals = torch.randn(OUT, size, generator=generator, dtype=torch.float64)
        solution.extend(keys, residuals)
        pieces.append((torch.cat(keys), residuals))
    stacked, wanted = (torch.cat(list(column), dim=1) for column in zip(*pieces, strict=True))
    assert solution.count == sum(parts)
    if mode == "frozen":
        expected = [
            solve_group(LayerStatistics(1, keys=rows, residuals=wanted / 3), [prior], False)[0]
            for rows, prior in zip(stacked.split(WIDTHS), make_priors(), strict=True)
        ]
    else:
        whole = LayerStatistics(1, keys=stacked, residuals=wanted)
        expected = solve_group(whole, make_priors(), mode == "anticipated")
    for found, other in zip(solution.updates(), expected, strict=True):
        torch.testing.assert_close(found.dense(), other.dense(), rtol=1e-9, atol=1e-12)

"""Priors of one projection and of several: held factors, factors made on demand, past keys."""

from __future__ import annotations

import torch
from torch import Tensor

from fleke_flwr.prior import HeldBlock, Prior, stack
from tests.test_linalg import make


class CountedBlock(HeldBlock):
    """A block that remembers how often it was asked for its factor."""

    asked = 0

    def factor(self) -> Tensor:
        type(self).asked += 1
        return super().factor()


def test_a_stacked_prior_is_block_diagonal() -> None:
    first, second = make(4, 3, 2, 0)[0], make(6, 3, 2, 1)[0]
    prior = stack([Prior.from_matrix(first), Prior.from_matrix(second)])
    assert prior.sizes == (4, 6)
    torch.testing.assert_close(prior.matrix(), torch.block_diag(first, second))
    keys = make(10, 3, 5, 2)[1]
    factor = torch.linalg.cholesky(torch.block_diag(first, second))
    whitened = torch.linalg.solve_triangular(factor, keys, upper=False)
    torch.testing.assert_close(prior.whiten(keys), whitened)
    unwhitened = torch.linalg.solve_triangular(factor.T, keys, upper=True)
    torch.testing.assert_close(prior.unwhiten(keys), unwhitened)


def test_leverage_is_whitening_twice() -> None:
    prior = stack([Prior.from_matrix(make(size, 1, 0, size)[0]) for size in (4, 6)])
    keys = make(10, 1, 3, 2)[1]
    gram, solved = prior.leverage(keys)
    whitened = prior.whiten(keys)
    torch.testing.assert_close(gram, whitened.T @ whitened)
    torch.testing.assert_close(solved, prior.unwhiten(whitened))
    torch.testing.assert_close(prior.matrix() @ solved, keys)


def test_factors_are_asked_for_only_when_they_are_used() -> None:
    factor = torch.linalg.cholesky(make(4, 1, 0, 0)[0])
    CountedBlock.asked = 0
    prior = stack([Prior.of([CountedBlock(factor)]), Prior.of([CountedBlock(factor, 1e-10)])])
    assert (prior.d_in, prior.sizes, prior.jitters) == (8, (4, 4), (0.0, 1e-10))
    assert CountedBlock.asked == 0
    prior.leverage(make(8, 1, 2, 0)[1])
    assert CountedBlock.asked == 2

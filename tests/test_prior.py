"""Priors of one projection and of several: held factors, factors made on demand, subspaces."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fleke_flwr.errors import StatisticsError
from fleke_flwr.prior import HeldBlock, Prior, ScaledIdentity, SubspaceBlock, stack
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


def test_a_scaled_identity_is_that_matrix() -> None:
    keys = make(5, 1, 3, 0)[1]
    plain, written = Prior.of([ScaledIdentity(5, 0.7)]), Prior.from_matrix(0.7 * torch.eye(5))
    assert (plain.d_in, plain.rank, plain.jitters, plain.finite) == (5, 5, (0.0,), True)
    for found, expected in zip(plain.leverage(keys), written.leverage(keys), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(plain.whiten(keys), written.whiten(keys))
    torch.testing.assert_close(plain.unwhiten(keys), written.unwhiten(keys))
    torch.testing.assert_close(plain.matrix(), written.matrix())
    torch.testing.assert_close(plain.blocks[0], written.blocks[0])
    torch.testing.assert_close(plain.members[0].signature(), written.members[0].signature())


def test_factors_are_asked_for_only_when_they_are_used() -> None:
    factor = torch.linalg.cholesky(make(4, 1, 0, 0)[0])
    CountedBlock.asked = 0
    prior = stack([Prior.of([CountedBlock(factor)]), Prior.of([CountedBlock(factor, 1e-10)])])
    assert (prior.d_in, prior.sizes, prior.jitters) == (8, (4, 4), (0.0, 1e-10))
    assert CountedBlock.asked == 0
    prior.leverage(make(8, 1, 2, 0)[1])
    assert CountedBlock.asked == 2


def subspace(size: int, rank: int, weight: float, seed: int = 0) -> SubspaceBlock:
    """Return a random one."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(size, rank, generator=generator, dtype=torch.float64)
    return SubspaceBlock(torch.linalg.qr(columns)[0], weight)


def test_a_subspace_has_an_inverse_and_no_matrix() -> None:
    block = subspace(7, 3, 2.5)
    matrix = make(5, 1, 0, 1)[0]
    prior = stack([Prior.of([block]), Prior.from_matrix(matrix)])
    inverse = torch.block_diag(block.basis @ block.basis.T / 2.5, torch.linalg.inv(matrix))
    assert (prior.sizes, prior.d_in, prior.rank, prior.finite) == ((7, 5), 12, 8, False)
    assert prior.jitters == (0.0, 0.0)
    keys = make(12, 1, 4, 2)[1]
    gram, solved = prior.leverage(keys)
    torch.testing.assert_close(solved, inverse @ keys)
    torch.testing.assert_close(gram, keys.T @ inverse @ keys)
    whitened = prior.whiten(keys)
    assert whitened.shape == (8, 4)
    torch.testing.assert_close(whitened.T @ whitened, gram)
    torch.testing.assert_close(prior.unwhiten(whitened), solved)


@pytest.mark.parametrize(
    "ask",
    [
        lambda prior: prior.matrix(),
        lambda prior: prior.blocks,
        lambda prior: prior.add_to(torch.zeros(7, 7, dtype=torch.float64)),
    ],
)
def test_what_a_subspace_does_not_have_is_refused(ask: Callable[[Prior], object]) -> None:
    with pytest.raises(StatisticsError, match=r"inside a subspace only.*neither a matrix"):
        ask(Prior.of([subspace(7, 3, 1.0)]))


def test_the_signature_does_not_depend_on_the_basis() -> None:
    block = subspace(7, 3, 2.0)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    same = SubspaceBlock(block.basis @ turn, 2.0)
    torch.testing.assert_close(same.signature(), block.signature())
    assert not torch.allclose(subspace(7, 3, 2.0, seed=1).signature(), block.signature())
    assert not torch.allclose(subspace(7, 3, 1.0).signature(), block.signature())

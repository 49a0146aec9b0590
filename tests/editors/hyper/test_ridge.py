from __future__ import annotations

import math

import pytest
import torch

from fleke_flwr.editors.hyper.ridge import Ridge


def problem(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    keys = torch.randn(tokens, 6, generator=generator, dtype=torch.float64)
    desired = torch.randn(tokens, 4, generator=generator, dtype=torch.float64)
    return keys, desired, torch.randn(4, 6, generator=generator, dtype=torch.float64)


def plain(keys: torch.Tensor, desired: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    matrix = keys.T @ keys + theta.exp() * torch.eye(keys.shape[1], dtype=keys.dtype)
    return torch.linalg.solve(matrix, keys.T @ desired).T


@pytest.mark.parametrize("tokens", [1, 3, 6, 11])
def test_change_and_gradients_are_those_of_autograd(tokens: int) -> None:
    keys, desired, upstream = problem(tokens)
    theta = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    desired.requires_grad_()
    wanted = plain(keys, desired, theta)
    (wanted * upstream).sum().backward()

    ridge = Ridge(keys, math.exp(-0.7))
    change = ridge.change(desired.detach())
    to_desired, to_theta = ridge.backward(change, upstream)

    torch.testing.assert_close(change, wanted.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(to_desired, desired.grad, rtol=1e-10, atol=1e-12)
    assert theta.grad is not None
    assert to_theta == pytest.approx(float(theta.grad), rel=1e-10)


def test_no_tokens_change_nothing() -> None:
    ridge = Ridge(torch.empty(0, 6), 1.0)
    change = ridge.change(torch.empty(0, 4))
    assert change.shape == (4, 6)
    assert not change.any()

from __future__ import annotations

import pytest
import torch

from fleke_flwr.editors.hyper.network import NETWORKS, HyperNetwork, MalmenNetwork
from tests.editors.hyper.networks import shaken

SHAPES = {"a": (4, 6), "b": (4, 6), "c": (6, 4)}


def network_of(editor: str) -> HyperNetwork:
    return shaken(NETWORKS[editor](SHAPES, 3)).double()


def tokens(count: int, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    d_out, d_in = shape
    keys = torch.randn(count, d_in, generator=generator, dtype=torch.float64)
    return keys, torch.randn(count, d_out, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("editor", sorted(NETWORKS))
def test_an_untrained_network_is_the_identity_and_can_learn(editor: str) -> None:
    network = NETWORKS[editor](SHAPES, 3).double()
    keys, gradients = tokens(5, SHAPES["a"])
    new_keys, new_gradients = network.transformed("a", keys, gradients)
    torch.testing.assert_close(new_keys, keys)
    torch.testing.assert_close(new_gradients, gradients)
    (new_keys.sum() + new_gradients.sum()).backward()
    second = network.get_parameter("stacks.0.0.second").grad
    assert second is not None
    assert second.abs().min() > 0


@pytest.mark.parametrize("editor", sorted(NETWORKS))
def test_an_untrained_network_descends(editor: str) -> None:
    network = NETWORKS[editor](SHAPES, 3).double()
    keys, gradients = tokens(1, SHAPES["a"])
    change = network.edit("a", keys, gradients).change
    assert float((change * (gradients.T @ keys)).sum()) < 0


@pytest.mark.parametrize("count", [3, 9])
def test_two_stages_give_the_gradients_of_one_graph(count: int) -> None:
    two, one = network_of("malmen"), network_of("malmen")
    assert isinstance(one, MalmenNetwork)
    total = torch.zeros((), dtype=torch.float64)
    for number, (module, shape) in enumerate(SHAPES.items()):
        keys, gradients = tokens(count, shape)
        upstream = tokens(number + 20, shape)[1].T @ tokens(number + 20, shape)[0]
        edit = two.edit(module, keys, gradients)
        edit.backward(upstream)
        matrix = keys.T @ keys + one.theta[number].exp() * torch.eye(shape[1], dtype=keys.dtype)
        desired = one.desired(module, keys, gradients)
        change = torch.linalg.solve(matrix, keys.T @ desired).T
        torch.testing.assert_close(edit.change, change.detach())
        total = total + (change * upstream).sum()
    total.backward()
    for (name, found), wanted in zip(two.named_parameters(), one.parameters(), strict=True):
        assert wanted.grad is not None
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_many_tokens_go_through_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, gradients = tokens(10, SHAPES["a"])
    upstream = gradients.T @ keys
    whole, cut = network_of("malmen"), network_of("malmen")
    whole.edit("a", keys, gradients).backward(upstream)
    monkeypatch.setattr("fleke_flwr.editors.hyper.network._CHUNK", 3)
    cut.edit("a", keys, gradients).backward(upstream)
    torch.testing.assert_close(
        whole.get_parameter("stacks.0.0.first").grad, cut.get_parameter("stacks.0.0.first").grad
    )


def test_modules_of_one_shape_share_blocks_but_not_scale_and_shift() -> None:
    network = network_of("mend")
    assert len(network.stacks) == 2
    keys, gradients = tokens(4, SHAPES["a"])
    assert not torch.allclose(
        network.edit("a", keys, gradients).change, network.edit("b", keys, gradients).change
    )


def test_mend_adds_over_tokens() -> None:
    network = network_of("mend")
    keys, gradients = tokens(4, SHAPES["c"])
    new_keys, new_gradients = network.transformed("c", keys, gradients)
    slow = sum(
        -network.rate("c") * torch.outer(new_gradients[t], new_keys[t]) for t in range(len(keys))
    )
    torch.testing.assert_close(network.edit("c", keys, gradients).change, slow)


def test_equal_seeds_begin_with_equal_networks() -> None:
    first, second, third = (NETWORKS["malmen"](SHAPES, 3, seed) for seed in (1, 1, 2))
    name = "stacks.0.0.first"
    assert torch.equal(first.get_parameter(name), second.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), third.get_parameter(name))

"""The pure merging rules, against their formulas and against PEFT."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.merge_utils import ties as peft_ties

from fleke_flwr.strategies.merging import ties, weighted_sum
from fleke_flwr.types import LayerUpdate


def random_updates(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 7, dtype=torch.float64, generator=generator) for _ in range(count)]


@given(count=st.integers(1, 6), seed=st.integers(0, 100))
def test_weighted_sum_of_products_equals_the_dense_sum(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    updates = [
        LayerUpdate(
            torch.randn(4, 2, dtype=torch.float64, generator=generator),
            torch.randn(2, 6, dtype=torch.float64, generator=generator),
        )
        for _ in range(count)
    ]
    weights = [0.5 + index for index in range(count)]
    expected = sum(w * u.dense() for w, u in zip(weights, updates, strict=True))
    torch.testing.assert_close(weighted_sum(updates, weights).dense(), expected)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_ties_agrees_with_peft_at_unit_weights(density: float) -> None:
    updates = random_updates(4)
    theirs = peft_ties(updates, torch.ones(4, dtype=torch.float64), density)
    torch.testing.assert_close(ties(updates, density, scale=1.0), theirs)


def test_ties_differs_from_the_first_clients_update() -> None:
    updates = random_updates(3)
    merged = ties(updates, density=0.2, scale=0.4)
    assert (merged - updates[0]).norm() > 0.5 * updates[0].norm()


def test_ties_of_one_client_with_everything_kept_is_its_update() -> None:
    (update,) = random_updates(1)
    torch.testing.assert_close(ties([update], density=1.0, scale=1.0), update)


def test_ties_averages_only_the_entries_with_the_elected_sign() -> None:
    first = torch.tensor([[4.0, -1.0]], dtype=torch.float64)
    second = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    merged = ties([first, second], density=1.0, scale=1.0)
    torch.testing.assert_close(merged, torch.tensor([[3.0, 3.0]], dtype=torch.float64))

"""The central types refuse nonsense and add up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fleke_flwr.errors import PayloadError, RequestError
from fleke_flwr.types import (
    EditRequest,
    LayerStatistics,
    LayerUpdate,
    add_updates,
    group_modules,
    group_name,
)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(statistics: LayerStatistics) -> LayerStatistics:
    gram, cross = statistics.sums()
    return LayerStatistics(statistics.count, gram=gram, cross=cross)


def test_a_request_fills_its_slot() -> None:
    request = EditRequest("1", "The home of {} is", "Ada {x}", "Arlen")
    assert request.text == "The home of Ada {x} is"


@pytest.mark.parametrize(
    ("prompt", "subject", "target", "message"),
    [
        ("no slot", "Ada", "Arlen", "found 0 slots"),
        ("{} and {}", "Ada", "Arlen", "found 2 slots"),
        ("{} is", " ", "Arlen", "subject is empty"),
        ("{} is", "Ada", "", "target is empty"),
    ],
)
def test_a_malformed_request_is_refused(
    prompt: str, subject: str, target: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        EditRequest("case 7", prompt, subject, target)
    assert "case 7" in str(caught.value)
    assert prompt in str(caught.value)


def test_statistics_add_in_both_forms() -> None:
    first = LayerStatistics(2, keys=rand(5, 2), residuals=rand(3, 2, seed=1))
    second = LayerStatistics(4, keys=rand(5, 4, seed=2), residuals=rand(3, 4, seed=3))
    total = first + second
    assert total.is_factored
    assert (total.count, total.d_in, total.d_out) == (6, 5, 3)
    for mixed in (dense(first) + second, first + dense(second), dense(first) + dense(second)):
        assert not mixed.is_factored
        assert mixed.count == 6
        for mine, theirs in zip(mixed.sums(), total.sums(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_statistics_can_be_withdrawn() -> None:
    first = LayerStatistics(2, keys=rand(5, 2), residuals=rand(3, 2, seed=1))
    second = LayerStatistics(1, keys=rand(5, 1, seed=2), residuals=rand(3, 1, seed=3))
    for left in (
        first + second - second,
        first - second + second,
        dense(first) + second - second,
        first + second - dense(second),
    ):
        assert left.count == 2
        for mine, theirs in zip(left.sums(), first.sums(), strict=True):
            torch.testing.assert_close(mine, theirs)
    assert (dense(first) - second).signs is None


def test_what_was_withdrawn_from_factors_stays_as_signs() -> None:
    first = LayerStatistics(2, keys=rand(5, 2), residuals=rand(3, 2, seed=1))
    second = LayerStatistics(1, keys=rand(5, 1, seed=2), residuals=rand(3, 1, seed=3))
    nothing = LayerStatistics(0, keys=rand(5, 0), residuals=rand(3, 0))
    left = first + second - second
    assert left.is_factored
    keys, residuals, signs = left.signed_factors()
    assert (keys.shape, residuals.shape) == ((5, 4), (3, 4))
    assert signs.tolist() == [1, 1, 1, -1]
    assert (first - left).signed_factors()[2].tolist() == [1, 1, -1, -1, -1, 1]
    with pytest.raises(PayloadError, match="signed_factors"):
        left.factors()
    assert (first - nothing).factors()[0].shape == (5, 2)
    assert first.signed_factors()[2].tolist() == [1, 1]
    with pytest.raises(PayloadError, match="factors are not known"):
        dense(first).factors()


def test_signs_must_fit_their_factors() -> None:
    parts = {"keys": rand(5, 2), "residuals": rand(3, 2)}
    for signs in (torch.ones(3), torch.tensor([1.0, 0.5]), torch.tensor([1.0, float("nan")])):
        with pytest.raises(PayloadError, match=r"give \+1 or -1 for every column"):
            LayerStatistics(2, **parts, signs=signs)
    with pytest.raises(PayloadError, match="signs belong to factors"):
        LayerStatistics(2, gram=rand(5, 5), cross=rand(3, 5), signs=torch.ones(2))


def test_statistics_need_exactly_one_fitting_form() -> None:
    with pytest.raises(PayloadError, match="not both"):
        LayerStatistics(1)
    with pytest.raises(PayloadError, match="not both"):
        LayerStatistics(1, keys=rand(5, 1), residuals=rand(3, 1), gram=rand(5, 5), cross=rand(3, 5))
    with pytest.raises(PayloadError, match="same number of columns"):
        LayerStatistics(1, keys=rand(5, 2), residuals=rand(3, 1))
    with pytest.raises(PayloadError, match="dense statistics do not fit"):
        LayerStatistics(1, gram=rand(5, 4), cross=rand(3, 5))


def test_updates_add_scale_and_compact() -> None:
    first = LayerUpdate(rand(3, 1), rand(1, 5, seed=1))
    second = LayerUpdate(rand(3, 1, seed=2), rand(1, 5, seed=3))
    total = first + second
    assert total.shape == (3, 5)
    torch.testing.assert_close(total.dense(), first.dense() + second.dense())
    torch.testing.assert_close(total.scaled(-2.0).dense(), -2.0 * total.dense())
    # Rank 2 needs 16 numbers, the matrix 15.
    assert total.right is None
    assert first.compact().right is not None
    mixed = first + LayerUpdate(second.dense())
    torch.testing.assert_close(mixed.dense(), total.dense())
    assert first.to(torch.float32).dense().dtype == torch.float32


def test_updates_must_fit() -> None:
    with pytest.raises(PayloadError, match="update factors do not fit"):
        LayerUpdate(rand(3, 2), rand(1, 5))
    with pytest.raises(PayloadError, match="cannot add"):
        LayerUpdate(rand(3, 5)) + LayerUpdate(rand(3, 4))


def test_updates_of_modules_add() -> None:
    first, second = LayerUpdate(rand(3, 5)), LayerUpdate(rand(3, 5, seed=1))
    total = add_updates({"a": first}, {"a": second, "b": second})
    assert set(total) == {"a", "b"}
    torch.testing.assert_close(total["a"].dense(), first.dense() + second.dense())
    assert total["b"] is second


def test_group_names_go_both_ways() -> None:
    modules = ("transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj")
    assert group_modules(group_name(modules)) == modules
    assert group_modules("one") == ("one",)

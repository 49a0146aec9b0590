"""The rule that makes layers of curves, on curves with known answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.locate.suggestion import suggest_layers

CURVE = st.lists(st.floats(-0.2, 1.0), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("mlp", "layers"),
    [
        ([0.1, 0.2, 0.5, 0.8, 1.0, 0.3], (2, 3, 4)),
        ([1.0, 0.2, 0.1], (0,)),
        ([0.9, 0.1, 1.0, 0.2], (2,)),
        ([0.6, 0.7, 1.0], (0, 1, 2)),
    ],
)
def test_up_to_the_peak_while_it_is_half_of_it(mlp: list[float], layers: tuple[int, ...]) -> None:
    found = suggest_layers(mlp)
    assert found is not None
    assert (found.layers, found.is_severed) == (layers, False)


def test_severed_traces_say_where_mlps_matter_no_more() -> None:
    mlp, block = [0.8, 0.03, 0.02, 0.01], [0.80, 0.82, 0.84, 0.83]
    found = suggest_layers(mlp, block, [0.70, 0.76, 0.83, 0.83])
    assert found is not None
    assert (found.layers, found.peak, found.is_severed) == ((0, 1, 2), 0, True)
    # They never end before the peak, and where they end nowhere, the peak counts.
    early = suggest_layers([0.1, 0.2, 0.9, 0.1], block, [0.80, 0.82, 0.84, 0.83])
    never = suggest_layers(mlp, block, [0.0, 0.0, 0.0, 0.0])
    assert early is not None
    assert never is not None
    assert early.layers == (2,)
    assert (never.layers, never.is_severed) == ((0,), False)


@pytest.mark.parametrize("mlp", [[], [0.0, 0.0], [-0.1, -0.2]])
def test_without_an_effect_nothing_is_suggested(mlp: list[float]) -> None:
    assert suggest_layers(mlp) is None


@given(CURVE, st.data())
def test_it_is_a_range_that_holds_the_peak(mlp: list[float], data: st.DataObject) -> None:
    size = {"min_size": len(mlp), "max_size": len(mlp)}
    block, severed = (data.draw(st.lists(st.floats(-0.2, 1.0), **size)) for _ in range(2))
    found = suggest_layers(mlp, block, severed)
    if found is None:
        assert max(mlp) <= 0
        return
    assert list(found.layers) == list(range(found.layers[0], found.layers[-1] + 1))
    assert found.peak in found.layers
    assert found.layers[-1] < len(mlp)
    assert mlp[found.peak] == max(mlp)

"""Averages by role and layer, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fleke_flwr.locate.effects import (
    FIRST_AFTER,
    FIRST_SUBJECT,
    FURTHER,
    LAST,
    LAST_SUBJECT,
    MIDDLE_SUBJECT,
    Mean,
    indirect_effects,
    role_of,
    total_effect,
)
from fleke_flwr.locate.tracing import Trace


def made(scores: list[list[float]], subject: tuple[int, int], high: float, low: float) -> Trace:
    table = torch.tensor(scores, dtype=torch.float64)
    return Trace(tuple("abcdefgh"[: len(scores)]), *subject, "x", high, low, {"mlp": table})


@pytest.mark.parametrize(
    ("length", "subject", "roles"),
    [
        (7, (1, 4), ["", FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, FIRST_AFTER, FURTHER, LAST]),
        (4, (0, 1), [LAST_SUBJECT, FIRST_AFTER, FURTHER, LAST]),
        (2, (0, 1), [LAST_SUBJECT, LAST]),
        (3, (1, 3), ["", FIRST_SUBJECT, LAST]),
    ],
)
def test_a_token_has_one_role(length: int, subject: tuple[int, int], roles: list[str]) -> None:
    trace = made([[0.0]] * length, subject, 1.0, 0.0)
    assert [role_of(trace, token) for token in range(length)] == roles


def test_every_token_counts_against_its_own_corrupted_run() -> None:
    one = made([[0.5, 0.3], [0.2, 0.2]], (0, 1), 0.9, 0.2)
    two = made([[0.1, 0.1], [0.7, 0.4], [0.1, 0.1]], (0, 2), 0.8, 0.1)
    effects = indirect_effects([one, two], "mlp")
    last = effects[LAST_SUBJECT]
    assert last.values == pytest.approx(((0.3 + 0.6) / 2, (0.1 + 0.3) / 2))
    assert last.layers[0].half == pytest.approx(1.96 * 0.15 / math.sqrt(2))
    assert last.layers[0].count == 2
    assert effects[FIRST_SUBJECT].layers[0].count == 1
    assert effects[MIDDLE_SUBJECT].layers == ()
    total = total_effect([one, two])
    assert (total.value, total.count) == (pytest.approx(0.7), 2)


def test_a_single_value_has_no_interval() -> None:
    one = made([[0.5], [0.2]], (0, 1), 0.9, 0.2)
    assert total_effect([one]) == Mean(pytest.approx(0.7), None, 1)
    assert indirect_effects([one], "mlp")[LAST_SUBJECT].layers[0].half is None
    assert total_effect([one, one]).half == 0.0

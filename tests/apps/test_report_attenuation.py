"""What sequential edits leave of earlier ones is drawn for sweeps over a fusion rule."""

from __future__ import annotations

from typing import Any

from fleke_flwr.apps.reporting.attenuation import attenuation
from fleke_flwr.apps.reporting.picture import DARK, LIGHT
from tests.apps.rows import made_row


def _row(key: str = "fusion.drop-rate", value: float = 0.0, rounds: int = 4) -> dict[str, Any]:
    row = made_row("collabedit", rounds=rounds, settings={key: value})
    row["history"] = [
        {
            "round": number,
            "first": {"efficacy": 99.0, "efficacy_top1": 90.0 - number - value},
            "quality": {"efficacy": 99.0, "efficacy_top1": 95.0 - number},
        }
        for number in range(1, rounds + 1)
    ]
    return row


def test_every_value_has_a_line_on_both_sides() -> None:
    rows = [_row(value=value) for value in (0.0, 0.5, 0.9)]
    picture = attenuation(rows)
    assert picture is not None
    assert len(picture.data) == 12
    assert picture.data[5] == {
        "variant": "collabedit, drop-rate 0.5", "round": 2, "first": 87.5, "all": 93.0,
    }  # fmt: skip
    assert "EA" in picture.caption
    assert picture.svg(LIGHT) != picture.svg(DARK)


def test_a_round_that_was_not_measured_leaves_a_gap() -> None:
    row = _row()
    row["history"][1]["quality"] = {}
    del row["history"][2]["first"]
    picture = attenuation([row])
    assert picture is not None
    assert [item["round"] for item in picture.data] == [1, 4]


def test_other_runs_have_none() -> None:
    assert attenuation([_row(key="memory")]) is None
    assert attenuation([_row(rounds=1)]) is None
    assert attenuation([made_row("collabedit")]) is None

"""What rounds do to the records of round 1 is drawn and tabled, whatever a row holds."""

from __future__ import annotations

import math
from typing import Any

from fleke_flwr.apps.reporting.axes import variant_called, variant_strokes
from fleke_flwr.apps.reporting.memory import first_records, forgetting
from fleke_flwr.apps.reporting.picture import DARK, LIGHT
from tests.apps.pages import cells_of
from tests.apps.rows import made_row, remembering, zsre


def _row(
    strategy: str = "collabedit", memory: str = "none", rounds: int = 12, **rest: Any
) -> dict[str, Any]:
    scores = {number: 95.0 - number for number in range(1, rounds + 1)}
    return remembering(made_row(strategy, rounds=rounds, **rest), memory, scores)


def test_every_variant_has_a_line_with_its_memory() -> None:
    rows = [
        _row(memory=memory, settings={"memory": memory})
        for memory in ("none", "dynamic", "statistics")
    ]
    picture = first_records(rows)
    assert picture is not None
    names = list(dict.fromkeys(item["variant"] for item in picture.data))
    assert names == [f"collabedit, memory {name}" for name in ("none", "dynamic", "statistics")]
    assert picture.data[9] == {
        "variant": names[0], "round": 10, "score": 85.0, "score_ci95": 4.0,
    }  # fmt: skip
    assert picture.svg(LIGHT) != picture.svg(DARK)
    shades = [stroke["color"] for stroke in variant_strokes(rows)]
    assert len(set(shades)) == 3
    assert all(shade in picture.svg(LIGHT) for shade in shades)


def test_a_variant_is_called_by_what_tells_it_from_others() -> None:
    rows = [_row(memory="dynamic", editor="pmet"), _row("ties")]
    assert [variant_called(row, rows) for row in rows] == [
        "collabedit, pmet, memory dynamic", "ties, memit",
    ]  # fmt: skip
    swept = [_row(settings={"merge.beta1": value}) for value in (1.0, 15000.0)]
    assert variant_called(swept[1], swept) == "collabedit, beta1 15000"
    old = [made_row("global")]
    assert variant_called(old[0], old) == "global (bound)"


def test_colours_are_the_strategies_unless_one_has_several_variants() -> None:
    one_each = variant_strokes([_row("collabedit"), _row("ties"), _row("global")])
    assert len({stroke["color"] for stroke in one_each}) == 3
    assert [stroke["linestyle"] for stroke in one_each] == ["-", "-", "--"]
    several = variant_strokes([_row("collabedit"), _row("global")] * 2)
    assert several[0]["color"] == several[1]["color"] != several[2]["color"]
    assert several[0]["marker"] != several[1]["marker"]


def test_the_table_has_a_few_rounds_and_everything() -> None:
    rows = [_row(score=96.8), _row("global", rounds=30)]
    for number in (5, 30):
        rows[1]["history"][number - 1]["first"] = None
    rows[1]["final_first"] = {"score": 44.0, "score_ci95": None}
    cells = cells_of(forgetting(rows))
    assert cells == [
        ["strategy", "after round 1", "after round 10", "after round 30", "everything"],
        ["collabedit", "94.0 ± 4.0", "85.0 ± 4.0", "–", "96.8 ± 1.2"],  # noqa: RUF001
        ["global (bound)", "94.0 ± 4.0", "85.0 ± 4.0", "44.0", "96.8 ± 1.2"],
    ]


def test_the_last_round_is_shown_whichever_it_is() -> None:
    titles = cells_of(forgetting([_row(rounds=37)]))[0]
    assert titles[1:] == [f"after round {number}" for number in (1, 10, 30, 37)] + ["everything"]


def test_rows_that_were_not_asked_are_not_drawn() -> None:
    old = made_row("ties", rounds=12)
    assert first_records([old]) is None
    assert first_records([_row(rounds=1)]) is None
    once = remembering(made_row("ties", rounds=3), "none", {1: 90.0})
    assert first_records([once]) is None
    picture = first_records([old, _row()])
    assert picture is not None
    assert {item["variant"] for item in picture.data} == {"collabedit"}
    assert len(cells_of(forgetting([old, _row()]))) == 2


def test_a_score_without_an_interval_is_drawn_without_a_band() -> None:
    row = _row(rounds=2)
    for entry in row["history"]:
        del entry["first"]["score_ci95"]
    picture = first_records([row])
    assert picture is not None
    assert [item["score_ci95"] for item in picture.data] == [0.0, 0.0]
    assert "<svg" in picture.svg(LIGHT)


def test_records_of_zsre_have_their_own_score() -> None:
    row = zsre(made_row("collabedit", rounds=2))
    for entry in row["history"]:
        entry["first"] = {"score": None, "score_tokens": 50.0 - entry["round"]}
    picture = first_records([row])
    assert picture is not None
    assert math.isclose(picture.data[1]["score"], 48.0)

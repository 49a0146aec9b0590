"""What settling conflicts has changed is said before and after, with its counts."""

from __future__ import annotations

from fleke_flwr.apps.reporting.conflict import conflicts, has_conflicts
from tests.apps.pages import cells_of
from tests.apps.rows import conflicting, made_row


def test_before_and_after_stand_below_each_other() -> None:
    cells = cells_of(conflicts([conflicting(made_row("collabedit")), made_row("global")]))
    assert cells == [
        ["strategy", "policy", "losers", "disputed", "withdrawn", "strengthened"],
        ["collabedit", "latest", "1,040", "20", "19", "18"],
        ["strategy", "", "pairs", "Avg-dP", "Succ, pair", "Succ, top-1", "unrelated"],
        ["collabedit", "before", "20", "-18.1", "37.0", "30.0", "80.0 ± 2.5"],
        ["", "after", "20", "17.6 [+35.7]", "77.6 [+40.6]", "70.0 [+40.0]", "79.0 ± 2.5 [-1.0]"],
    ]


def test_a_sweep_has_a_column() -> None:
    rows = [
        conflicting(made_row("collabedit", settings={"conflict.strength": value}))
        for value in (1, 3)
    ]
    cells = cells_of(conflicts(rows))
    assert [row[1] for row in cells] == ["strength", "1", "3", "strength", "1", "", "3", ""]


def test_what_was_not_measured_or_not_counted_is_a_dash() -> None:
    row = conflicting(made_row("collabedit"), after=None, policy="<b>mine</b>")
    row["conflicts"]["before"] = {"pairs": 0, "margin": None, "unrelated": None}
    del row["conflicts"]["withdrawn"]
    text = conflicts([row, conflicting(made_row("ties"), losers_after=7)])
    cells = cells_of(text)
    dash = "–"  # noqa: RUF001
    assert cells[0][-3:] == ["withdrawn", "strengthened", "losers after"]
    assert cells[1][1:] == ["<b>mine</b>", "1,040", "20", dash, "18", dash]
    assert cells[2][-1] == "7"
    assert "<b>" not in text
    assert cells[4] == ["collabedit", "before", "0", *[dash] * 4]
    assert cells[5] == ["", "after", *[dash] * 5]
    assert "withdrawn" not in conflicts([row])


def test_rows_that_did_not_look_have_none() -> None:
    assert not has_conflicts([made_row("collabedit"), {**made_row("ties"), "conflicts": None}])
    assert has_conflicts([conflicting(made_row("collabedit"))])

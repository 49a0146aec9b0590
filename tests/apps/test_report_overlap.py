"""Whose keys lie among whose is drawn with numbers, and what was known is counted."""

from __future__ import annotations

from typing import Any

from fleke_flwr.apps.reporting.overlap import counts, has_overlap, key_overlap
from fleke_flwr.apps.reporting.picture import DARK, LIGHT
from tests.apps.pages import cells_of
from tests.apps.rows import made_row, overlapping

SHARED: list[list[float | None]] = [[1.0, 0.2, None], [0.4, 1.0, None], [None, None, None]]


def _row(strategy: str = "collabedit", rounds: int = 1, **rest: Any) -> dict[str, Any]:
    known = [number * 2 for number in range(rounds)]
    return overlapping(made_row(strategy, rounds=rounds, **rest), SHARED, known, 5)


def test_every_pair_of_clients_is_in_the_numbers() -> None:
    picture = key_overlap([_row()])
    assert picture is not None
    assert len(picture.data) == 9
    assert picture.data[1] == {"variants": "collabedit", "client": 0, "other": 1, "shared": 0.2}
    assert picture.data[8]["shared"] is None
    assert picture.csv().splitlines()[3] == "collabedit,0,2,"
    assert picture.svg(LIGHT) == picture.svg(LIGHT)
    assert picture.svg(LIGHT) != picture.svg(DARK)


def test_variants_with_the_same_keys_share_a_panel() -> None:
    rows = [_row(), _row("ties"), made_row("global")]
    picture = key_overlap(rows)
    assert picture is not None
    assert {item["variants"] for item in picture.data} == {"collabedit, ties"}
    rows[1]["overlap"] = {**rows[1]["overlap"], "shared": [[1.0, 0.0, 0.0]] * 3}
    several = key_overlap(rows)
    assert several is not None
    assert {item["variants"] for item in several.data} == {"collabedit", "ties"}


def test_many_clients_have_a_scale_in_place_of_numbers() -> None:
    shared: list[list[float | None]] = [[0.5] * 30 for _ in range(30)]
    picture = key_overlap([overlapping(made_row("collabedit"), shared, [0])])
    assert picture is not None
    assert "<svg" in picture.svg(DARK)
    assert picture.size[1] < 6


def test_known_and_skipped_edits_are_counted_by_round() -> None:
    titles = ["threshold", "looked at", "known", "skipped", "residual left", "one edit leaves"]
    dash = "–"  # noqa: RUF001
    assert cells_of(counts([_row(rounds=3), made_row("global")])) == [
        ["strategy", *titles, "known, by round"],
        ["collabedit", "0.1", "40", "6", "5", "0.053", dash, "0 2 4"],
    ]
    assert cells_of(counts([_row()]))[1] == ["collabedit", "0.1", "40", "0", "5", "0.053", dash]


def test_rows_without_overlap_or_without_shares_are_no_picture() -> None:
    assert key_overlap([made_row("ties")]) is None
    assert not has_overlap([made_row("ties")])
    row = _row()
    row["overlap"].update(shared=None, clients=[])
    assert key_overlap([row]) is None
    assert has_overlap([row])
    assert cells_of(counts([row]))[1][1] == "0.1"

"""The terminal's tables show what the rows allow, related to the right bound."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from fleke_flwr.apps.reporting.metrics import COUNTERFACT, ZSRE, protocol_of
from fleke_flwr.apps.results import (
    ALL,
    OWN,
    RECEIVED,
    bound_of,
    last_value,
    measured,
    paper_name,
    percent_of_bound,
    share_taken,
    shown,
    swept_key,
    swept_value,
)
from fleke_flwr.apps.tables import result_table
from tests.apps.rows import made_row, personal_row, zsre


def _shown(rows: list[dict[str, Any]], width: int = 80, *, terminal: bool = False) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    console.print(result_table(rows), soft_wrap=not terminal)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def _line(lines: list[str], start: str, which: int = 0) -> list[str]:
    return [line for line in lines if line.startswith(start)][which].split()


def _study(values: tuple[float, ...] = (0.2, 0.4)) -> list[dict[str, Any]]:
    rows = []
    for value in values:
        for editor, score in (("memit", 80.0), ("pmet", 50.0)):
            chosen: dict[str, Any] = {"settings": {"fededit.alpha": value}, "editor": editor}
            rows += [
                personal_row("fededit", score=40.0, **chosen),
                personal_row("fededit_no_condition", score=30.0, **chosen),
                made_row("global", score=score * (1 if value == values[0] else 0.5), **chosen),
            ]
    return rows


def test_a_comparison_is_one_table_with_the_model_before_editing() -> None:
    lines = _shown([made_row("collabedit"), made_row("global")])
    assert "editor" not in "".join(lines)
    assert _line(lines, "before editing")[2:5] == ["0.0", "0.0", "0.0"]
    assert _line(lines, "collabedit")[1:3] == ["96.8", "98.0"]
    assert lines.index("in percent of the bound (global)") > 0
    assert _line(lines, "collabedit", 1) == ["collabedit", *["100.0"] * 4]
    assert not any(line.startswith("global ") for line in lines[lines.index("") :])


def test_without_a_bound_nothing_is_in_percent_of_it() -> None:
    lines = _shown([made_row("collabedit")])
    assert "" not in lines
    assert not any("percent" in line for line in lines)


def test_one_value_swept_is_a_column_of_its_name() -> None:
    rows = [made_row("ties", settings={"data.balance": value}) for value in (True, False)]
    lines = _shown(rows)
    assert "balance" in lines[1]
    assert _line(lines, "ties")[1] == "true"
    assert _line(lines, "ties", 1)[1] == "false"


def test_the_bound_is_that_of_the_same_editor_and_settings() -> None:
    rows = _study()
    assert [bound_of(row, rows) for row in rows if row["strategy"] == "global"] == [None] * 4
    found = [percent_of_bound(row, rows, "score") for row in rows if row["strategy"] == "fededit"]
    assert found == pytest.approx([50.0, 80.0, 100.0, 160.0])
    assert percent_of_bound(rows[0], rows, "score", ALL) == pytest.approx(75.0)
    lines = _shown(rows)
    assert _line(lines, "fededit ", 4) == [
        "fededit",
        "memit",
        "0.2",
        "50.0",
        *["100.0"] * 3,
        "75.0",
    ]


@pytest.mark.parametrize(
    ("ours", "bound", "group"),
    [(None, 80.0, OWN), (40.0, None, OWN), (40.0, 0.0, OWN), (40.0, 80.0, RECEIVED)],
)
def test_no_percentage_where_there_is_nothing_to_compare(
    ours: float | None, bound: float | None, group: str
) -> None:
    rows = [personal_row(score=ours), made_row("global", score=bound)]
    assert percent_of_bound(rows[0], rows, "score", group) is None


def test_personal_models_have_a_column_for_everybodys_records() -> None:
    lines = _shown([personal_row(everybody=61.5), made_row("global")])
    header = next(line for line in lines if line.startswith("strategy")).split()
    place = header.index("all")
    assert "own records" in lines[0]
    assert _line(lines, "fededit")[place] == "61.5"
    assert _line(lines, "global (bound)")[place + 1] == "96.8"
    assert _line(_shown([personal_row(everybody=None)]), "fededit")[place] == "-"


def test_messages_and_sweeps_are_columns_where_rows_differ() -> None:
    rows = [made_row("collabedit"), made_row("global")]
    assert "messages" not in "".join(_shown(rows))
    rows[0].update(messages=6, sweeps=2)
    rows[1].update(messages=1, sweeps=2)
    lines = _shown(rows)
    header = next(line for line in lines if line.startswith("strategy")).split()
    assert header[-3:] == ["messages", "sends", "s"]
    assert "sweeps" not in "".join(lines)
    assert _line(lines, "collabedit")[-4:] == ["6", "1.0", "MiB", "12.3"]
    assert _line(lines, "global (bound)")[-3:] == ["1", "-", "12.3"]
    del rows[1]["messages"]
    assert _line(_shown(rows), "global (bound)")[-3:] == ["-", "-", "12.3"]


def test_swept_sweeps_are_one_column() -> None:
    rows = [made_row("collabedit", settings={"sweeps": count}) for count in (1, 3)]
    for row, count in zip(rows, (1, 3), strict=True):
        row["sweeps"] = count
    lines = _shown(rows)
    assert "".join(lines).count("sweeps") == 1
    assert _line(lines, "collabedit", 1)[1] == "3"


def test_what_taking_over_vectors_has_saved_is_said() -> None:
    lines = _shown([personal_row(selected=30), personal_row("fededit_no_condition", selected=0)])
    start = next(place for place, line in enumerate(lines) if "optimisations saved" in line)
    some, none = lines[-2].split(), lines[-1].split()
    assert start < len(lines) - 2
    assert some == ["fededit", "30", "7.5", "1.5", "2.0", "KiB", "75.0", "3"]
    assert none == ["fededit_no_condition", "0", "0.0", "1.5", "-", "0.0", "3"]


def test_records_of_zsre_are_shown_by_token() -> None:
    rows = [zsre(personal_row()), zsre(made_row("global"), score_tokens=50.7)]
    lines = _shown(rows)
    assert lines[0].startswith("zsRE, by token")
    header = next(line for line in lines if line.startswith("strategy")).split()
    assert header[:6] == ["strategy", "Score", "EA", "PA", "NA", "all"]
    assert _line(lines, "fededit")[1:5] == ["50.5", "92.9", "87.3", "26.9"]
    assert _line(lines, "fededit", 1)[1] == "99.6"


def test_the_protocol_is_counterfact_unless_only_tokens_have_a_score() -> None:
    assert protocol_of([made_row("ties")]) is COUNTERFACT
    assert protocol_of([made_row("ties", score_tokens=50.0)]) is COUNTERFACT
    assert protocol_of([made_row("ties", score=None)]) is COUNTERFACT
    assert protocol_of([zsre(made_row("ties"))]) is ZSRE


def test_models_before_editing_have_a_line_for_every_value_that_changes_them() -> None:
    rows = [made_row("ties", settings={"seed": seed}) for seed in (0, 1)]
    assert sum(line.startswith("before editing") for line in _shown(rows)) == 1
    rows[1]["base"] = {**rows[1]["base"], "neighborhood": 99.0}
    lines = _shown(rows)
    assert [_line(lines, "before editing", place)[2] for place in (0, 1)] == ["0", "1"]


def test_a_row_without_edits_has_nothing_before() -> None:
    assert not any("before" in line for line in _shown([made_row("unedited", edits=0)]))


def test_a_row_that_knows_nothing_of_exchanges_or_sweeps_is_shown() -> None:
    row = made_row("central")
    for key in ("settings", "final_all", "final_received"):
        del row[key]
    assert _line(_shown([row]), "central")[1] == "96.8"
    assert measured(row, ALL) == row["final"]


def test_the_widest_table_fits_a_hundred_columns_and_is_whole_in_a_file() -> None:
    lines = _shown(_study())
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)
    assert sum(line.startswith("fededit_no_condition memit") for line in lines) == 6


def test_a_narrow_terminal_breaks_names_and_no_numbers() -> None:
    lines = _shown([personal_row("fededit_no_condition"), made_row("global")], 80, terminal=True)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert _line(lines, "fededit_no")[1:3] == ["96.8", "98.0"]


def test_settings_are_read_as_they_are_written() -> None:
    assert [shown(value) for value in (True, 0.4, 3, "paper", 1e6)] == [
        "true", "0.4", "3", "paper", "1e+06",
    ]  # fmt: skip
    row = made_row("ties", 33, settings={"data.edits": 0})
    assert swept_key([made_row("ties"), row]) == "data.edits"
    assert swept_value(row, "data.edits") == 33
    rows = _study((0.2, 0.4, 0.6))
    assert {row["settings"]["fededit.alpha"] for row in last_value(rows)} == {0.6}


@pytest.mark.parametrize(
    ("strategy", "editor", "name"),
    [
        ("fededit", "memit", "FedMEMIT"),
        ("fededit", "pmet", "FedPMET"),
        ("fededit_no_condition", "pmet", "FedPMET w/o Z"),
        ("edit_avg", "memit", "MEMITAvg"),
        ("edit_avg", "pmet", "PMETAvg"),
        ("global", "memit", "MEMIT"),
        ("collabedit", "memit", ""),
        ("fededit", "mine:Editor", ""),
    ],
)
def test_the_names_of_the_paper(strategy: str, editor: str, name: str) -> None:
    assert paper_name(made_row(strategy, editor=editor)) == name


def test_the_share_that_was_taken() -> None:
    assert share_taken(personal_row(selected=10)) == 25.0
    row = personal_row()
    row["exchange"]["received"] = 0
    assert share_taken(row) is None
    assert share_taken(made_row("ties")) is None

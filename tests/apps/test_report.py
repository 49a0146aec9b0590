"""The report is one file that needs nothing else, and says what the rows say."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.apps.report import render
from fleke_flwr.apps.reporting.axes import color, places
from fleke_flwr.apps.reporting.figures import bytes_and_quality, phase_seconds, score_bars
from fleke_flwr.apps.reporting.picture import DARK, LIGHT
from fleke_flwr.apps.reporting.rounds import score_by_round, seconds_by_slot
from fleke_flwr.apps.reporting.sweep import score_by_value
from fleke_flwr.errors import DataError
from tests.apps.pages import cells_of, numbers_in
from tests.apps.rows import (
    conflicting,
    made_row,
    overlapping,
    personal_row,
    remembering,
    write_comparison,
    zsre,
)


def _cells(page: Path) -> list[list[str]]:
    return cells_of(page.read_text(encoding="utf-8"))


def _study(key: str, values: tuple[Any, ...], rounds: int = 1) -> list[dict[str, Any]]:
    """Return rows of FedLEKE's strategies with both editors; without values, of no sweep."""
    rows = []
    for value in values or (None,):
        for editor in ("memit", "pmet"):
            chosen = {"editor": editor, "rounds": rounds, "settings": {key: value} if key else {}}
            rows += [
                personal_row("fededit", score=85.1, **chosen),
                personal_row("fededit_no_condition", selected=40, **chosen),
                made_row("edit_avg", score=62.9, **chosen),
                made_row("global", score=85.8, **chosen),
            ]
    return rows


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    rows = [
        made_row("collabedit"),
        made_row("global"),
        made_row("ties", score=1.5, same_subject=None),
    ]
    return write_comparison(tmp_path / "run", rows)


def test_the_table_says_what_the_rows_say(comparison: Path) -> None:
    cells = _cells(render(comparison))
    ours = next(row for row in cells if row[0] == "collabedit")
    assert ours[:3] == ["collabedit", "96.8 ± 1.2 [100.0 %]", "98.0 ± 1.2 [100.0 %]"]
    assert ours[-2:] == ["1.0 MiB", "12.3"]
    assert next(row for row in cells if row[0] == "global (bound) MEMIT")[1] == "96.8 ± 1.2"
    assert next(row for row in cells if row[0] == "before editing")[1:5] == [
        "0.0", "0.0", "0.0", "100.0",
    ]  # fmt: skip
    ties = next(row for row in cells if row[0] == "ties")
    assert ties[1] == "1.5 ± 1.2 [1.5 %]"
    assert ties[8] == "–"  # noqa: RUF001  # a dash stands for "the records do not allow it"
    assert ["1", "20", "91.0 ± 1.2", "91.0 ± 1.2", "91.0 ± 1.2"] in cells


def test_the_page_needs_no_other_file_and_no_network(comparison: Path) -> None:
    page = render(comparison).read_text(encoding="utf-8")
    loaded = re.findall(r'(?:src|srcset)="([^"]*)"', page)
    assert loaded
    assert all(source.startswith("data:image/svg+xml;base64,") for source in loaded)
    assert not re.search(r"https?://|<script|@import|url\(", page)
    assert page.count("prefers-color-scheme: dark") == 1 + len(loaded) // 2


def test_pictures_are_drawn_for_light_and_dark(comparison: Path) -> None:
    page = render(comparison).read_text(encoding="utf-8")
    dark, light = (
        base64.b64decode(text).decode()
        for text in re.findall(r'"data:image/svg\+xml;base64,([^"]*)"', page)[:2]
    )
    assert LIGHT.text in light
    assert DARK.text in dark
    assert color("collabedit") in light
    assert color("collabedit") in dark


def test_the_numbers_lie_beside_the_pictures(comparison: Path) -> None:
    render(comparison)
    numbers = {row["strategy"]: row for row in numbers_in(comparison / "report" / "score.csv")}
    assert numbers["collabedit"]["score"] == "96.8"
    assert numbers["ties"]["same_subject"] == ""
    assert {path.name for path in (comparison / "report").glob("*.svg")} == {
        f"{name}{theme}.svg"
        for name in ("score", "clients", "bytes", "seconds")
        for theme in ("", "-dark")
    }


@pytest.mark.parametrize("said", [True, False], ids=["settings", "rows before settings"])
def test_a_sweep_is_drawn_over_the_number_of_edits(said: bool, tmp_path: Path) -> None:
    rows = []
    for edits in (10, 20):
        rows += [
            made_row(name, edits, settings={"data.edits": edits}) for name in ("ties", "global")
        ]
    if not said:
        for row in rows:
            del row["settings"]
    directory = write_comparison(tmp_path, rows)
    page = render(directory).read_text(encoding="utf-8")
    assert "Score against the number of edits" in page
    numbers = numbers_in(directory / "report" / "sweep.csv")
    assert [(row["edits"], row["at"]) for row in numbers] == [("10", "10.0")] * 2 + [
        ("20", "20.0")
    ] * 2
    assert "10, 20" in page


def test_several_rounds_are_drawn_over_the_rounds(tmp_path: Path) -> None:
    directory = write_comparison(tmp_path, [made_row("collabedit", rounds=3), made_row("global")])
    assert "Score after each round" in render(directory).read_text(encoding="utf-8")


def test_a_single_run_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(made_row("edit_avg")), encoding="utf-8")
    assert any(row[0] == "edit_avg MEMITAvg" for row in _cells(render(tmp_path)))


def test_percentages_of_the_bound_are_the_papers(tmp_path: Path) -> None:
    """FedLEKE's table 1, GPT-J: 85.1 [99.2 %] and 62.9 [73.3 %] of 85.8."""
    cells = _cells(render(write_comparison(tmp_path, _study("", ()))))
    first = {row[0]: row for row in reversed(cells) if row[1] == "memit"}
    assert first["fededit FedMEMIT"][2] == "85.1 ± 1.2 [99.2 %]"
    assert first["edit_avg MEMITAvg"][2] == "62.9 ± 1.2 [73.3 %]"
    assert first["global (bound) MEMIT"][2] == "85.8 ± 1.2"
    assert any(row[0] == "fededit FedPMET" for row in cells)


def test_models_of_the_clients_own_are_asked_three_groups_of_records(tmp_path: Path) -> None:
    rows = [personal_row(everybody=42.9), made_row("global", score=85.8)]
    page = render(write_comparison(tmp_path, rows))
    ours = [row for row in _cells(page) if row[0] == "fededit FedMEMIT"]
    assert [row[1] for row in ours] == [
        "96.8 ± 1.2 [112.8 %]", "42.9 ± 1.2 [50.0 %]", "55.5 ± 1.2",
    ]  # fmt: skip
    text = page.read_text(encoding="utf-8")
    for group in ("Own records:", "Everybody&#x27;s records:", "Records taken over:"):
        assert text.count(f"<h3>{group}") == 1


def test_what_taking_over_vectors_has_saved_is_in_the_report(tmp_path: Path) -> None:
    page = render(write_comparison(tmp_path, [personal_row(selected=30), made_row("global")]))
    assert "Vectors taken over" in page.read_text(encoding="utf-8")
    row = next(row for row in _cells(page) if row[:3] == ["fededit", "40", "30"])
    assert row[2:] == [
        "30", "75.0", "3", "30", "0.25", "7.5", "1.5", "0.05", "2.0 KiB", "1.0 MiB", "500 B",
    ]  # fmt: skip


def test_fluency_and_consistency_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    written = {"ngram_entropy": 622.4, "ngram_entropy_ci95": 0.3, "reference_score": 29.4}
    page = render(write_comparison(tmp_path / "with", [made_row("ties", **written)]))
    cells = _cells(page)
    assert cells[0][9:11] == ["NE", "RS"]
    assert cells[2][9:11] == ["622.4 ± 0.3", "29.4"]
    without = render(write_comparison(tmp_path / "without", [made_row("ties")]))
    assert "fluency" not in without.read_text(encoding="utf-8")


def test_records_of_zsre_have_their_own_columns(tmp_path: Path) -> None:
    rows = [zsre(row) for row in _study("", (), rounds=2)]
    page = render(write_comparison(tmp_path, rows))
    text = page.read_text(encoding="utf-8")
    assert "zsRE, by token" in text
    assert "CounterFact" not in text
    cells = _cells(page)
    assert cells[0][2:6] == ["Score", "EA", "PA", "NA"]
    assert cells[2][2:4] == ["50.5 ± 0.5 [100.0 %]", "92.9 [100.0 %]"]
    assert numbers_in(tmp_path / "report" / "score.csv")[0]["score"] == "50.5"
    assert numbers_in(tmp_path / "report" / "rounds.csv")[0]["score"] == "50.5"


def test_a_sweep_of_the_condition_shows_what_was_taken(tmp_path: Path) -> None:
    rows = _study("fededit.alpha", (0.2, 0.4))
    directory = write_comparison(tmp_path, rows)
    page = render(directory).read_text(encoding="utf-8")
    assert "Score against fededit.alpha" in page
    assert "fededit.alpha = 0.4" in page
    numbers = numbers_in(directory / "report" / "sweep.csv")
    assert numbers[0] == {
        "strategy": "fededit", "editor": "memit", "alpha": "0.2", "at": "0.2",
        "score": "85.1", "score_all": "60.0", "taken": "75.0",
    }  # fmt: skip
    assert (numbers[1]["taken"], numbers[3]["taken"]) == ("100.0", "")
    assert len(numbers_in(directory / "report" / "seconds.csv")) == 8


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("fededit.rule", ("pooled", "own_keys", "paper")),
        ("data.balance", (True, False)),
        ("data.edits", (10, 1000, 0)),
        ("merge.scale", (0.01, 1.0, 10.0)),
        ("fededit.alpha", (-1.0, 0.4)),
        ("clients", (4,)),
    ],
)
def test_a_setting_of_any_kind_is_swept(key: str, values: tuple[Any, ...], tmp_path: Path) -> None:
    rows = _study(key, values)
    directory = write_comparison(tmp_path, rows)
    assert f"swept: {key}" in render(directory).read_text(encoding="utf-8")
    assert len(numbers_in(directory / "report" / "sweep.csv")) == 8 * len(values)


def test_numbers_stand_by_size_and_words_in_order() -> None:
    assert places([10, 2, 10]) == {10: 10.0, 2: 2.0}
    assert places(["pooled", "paper", "pooled"]) == {"pooled": 0.0, "paper": 1.0}
    assert places([True, False]) == {True: 0.0, False: 1.0}


def test_slots_say_whether_they_cost_more_and_more(tmp_path: Path) -> None:
    rows = _study("", (), rounds=3)
    for row in rows:
        for place, record in enumerate(row["history"]):
            record["seconds"] = {"targets": 1.0, "reedit": 0.5 * place, "evaluate": 9.0}
            # A slot that was not measured.
            record["quality"] = record["quality"] if place != 1 else None
    directory = write_comparison(tmp_path, rows)
    assert "Seconds of each time slot" in render(directory).read_text(encoding="utf-8")
    slots = numbers_in(directory / "report" / "slots.csv")
    assert [row["reedit"] for row in slots[:3]] == ["0.0", "0.5", "1.0"]
    assert {row["strategy"] for row in slots} == {"fededit", "fededit_no_condition"}
    assert [row["score"] for row in numbers_in(directory / "report" / "rounds.csv")][:3] == [
        "85.1", "", "85.1",
    ]  # fmt: skip


def test_rounds_of_which_only_the_last_was_measured_are_not_drawn() -> None:
    row = made_row("ties", rounds=3)
    for record in row["history"][:2]:
        record["quality"] = dict.fromkeys(record["quality"])
    assert score_by_round([row]) is None
    assert seconds_by_slot([row]) is None
    assert seconds_by_slot([personal_row()]) is None


def test_editors_are_told_apart_in_every_picture() -> None:
    rows = _study("", (), rounds=2)
    drawn = (score_bars, score_by_round, seconds_by_slot, bytes_and_quality, phase_seconds)
    swept = score_by_value(_study("fededit.alpha", (0.2, 0.4)))
    for picture in (*(draw(rows) for draw in drawn), swept):
        assert picture is not None
        assert {item["editor"] for item in picture.data} == {"memit", "pmet"}
        assert "<svg" in picture.svg(LIGHT)
    assert "<pattern" in score_bars(rows).svg(LIGHT)
    assert "<pattern" not in score_bars(rows[:4]).svg(LIGHT)


def test_rows_that_were_hardly_measured_have_a_report(tmp_path: Path) -> None:
    rows = [personal_row(everybody=None, selected=0, score=None, rounds=2), made_row("global")]
    rows[0]["final"] = dict.fromkeys(rows[0]["final"])
    rows[1]["final_all"] = None
    page = render(write_comparison(tmp_path, rows)).read_text(encoding="utf-8")
    assert "Records taken over" not in page
    assert "Bytes against quality" not in page
    assert numbers_in(tmp_path / "report" / "score.csv")[0]["score_all"] == ""


def test_what_only_some_runs_look_into_has_sections_of_its_own(tmp_path: Path) -> None:
    row = remembering(made_row("collabedit", rounds=2), "dynamic", {1: 90.0, 2: 80.0})
    row = conflicting(overlapping(row, [[1.0, 0.5], [0.25, 1.0]], [0, 3]))
    directory = write_comparison(tmp_path / "all", [row, made_row("global")])
    text = render(directory).read_text(encoding="utf-8")
    titles = [f">{title}</h2>" for title in ("Clients", "Forgetting", "Overlap", "Conflicts")]
    assert sorted(map(text.index, titles)) == list(map(text.index, titles))
    files = {path.name for path in (directory / "report").iterdir()}
    assert {"forgetting.svg", "forgetting-dark.svg", "overlap.csv"} <= files
    plain = render(write_comparison(tmp_path / "none", [made_row("collabedit", rounds=2)]))
    assert not any(title in plain.read_text(encoding="utf-8") for title in titles[1:])


def test_messages_and_sweeps_are_columns_where_they_differ(tmp_path: Path) -> None:
    rows = [made_row("collabedit"), made_row("ties"), made_row("edit_avg")]
    rows[0].update(messages=6, sweeps=1)
    rows[1].update(messages=1, sweeps=1)
    cells = _cells(render(write_comparison(tmp_path, rows)))
    assert cells[0][-4:] == ["messages", "sweeps", "client sends", "s"]
    found = {row[0].split()[0]: row[-4:-2] for row in cells[1:5]}
    assert found == {
        "before": ["", ""], "collabedit": ["6", "1"], "ties": ["1", "1"], "edit_avg": ["-", "-"],
    }  # fmt: skip


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    write_comparison(tmp_path, [made_row("<script>alert(1)</script>")])
    manifest = {"config": {"name": "<b>bold</b>", "model.name": "a&b"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    page = render(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "a&amp;b" in page


def test_left_out_records_are_reported(comparison: Path) -> None:
    manifest = {"config": {"name": "demo"}, "data": {"skipped": {"duplicate": 3}}}
    (comparison / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "3 duplicate" in render(comparison).read_text(encoding="utf-8")


def test_a_picture_is_the_same_every_time() -> None:
    picture = score_bars([made_row("collabedit"), made_row("global")])
    assert picture.svg(LIGHT) == picture.svg(LIGHT)
    assert picture.png().startswith(b"\x89PNG")


def test_a_strategy_of_somebody_else_keeps_its_colour() -> None:
    assert color("mine") == color("mine")
    assert re.fullmatch(r"#[0-9a-f]{6}", color("mine"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither comparison.json nor metrics.json"),
        ("{", "not a file of fleke-flwr"),
        ('{"schema": 1}', "not a file of fleke-flwr"),
        ('{"rows": [{"schema": 2}]}', "another schema"),
        ('{"rows": []}', "holds no row"),
    ],
)
def test_a_directory_without_a_finished_run(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "comparison.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        render(tmp_path)
    assert not (tmp_path / "report.html").exists()

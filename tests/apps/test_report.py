"""The report is one file that needs nothing else, and says what the rows say."""

from __future__ import annotations

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fleke_flwr.apps.report import render
from fleke_flwr.apps.report_figures import color, score_bars
from fleke_flwr.apps.report_picture import DARK, LIGHT
from fleke_flwr.errors import DataError
from tests.apps.rows import made_row, write_comparison


class Tables(HTMLParser):
    """Collect the text of every table cell, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def _cells(page: Path) -> list[list[str]]:
    tables = Tables()
    tables.feed(page.read_text(encoding="utf-8"))
    return tables.rows


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
    assert ours[:4] == ["collabedit", "40", "96.8 ± 1.2", "98.0 ± 1.2"]
    assert ours[-2:] == ["1.0 MiB", "12.3"]
    assert any(row[0] == "global (bound)" for row in cells)
    ties = next(row for row in cells if row[0] == "ties")
    assert ties[2].startswith("1.5")
    assert ties[9] == "–"  # noqa: RUF001  # a dash stands for "the records do not allow it"
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
    with (comparison / "report" / "score.csv").open(encoding="utf-8") as file:
        numbers = {row["strategy"]: row for row in csv.DictReader(file)}
    assert numbers["collabedit"]["score"] == "96.8"
    assert numbers["ties"]["same_subject"] == ""
    assert {path.name for path in (comparison / "report").glob("*.svg")} == {
        f"{name}{theme}.svg" for name in ("score", "bytes", "seconds") for theme in ("", "-dark")
    }


def test_a_sweep_is_drawn_over_the_number_of_edits(tmp_path: Path) -> None:
    rows = [made_row(name, edits) for edits in (10, 20) for name in ("collabedit", "global")]
    directory = write_comparison(tmp_path, rows)
    page = render(directory).read_text(encoding="utf-8")
    assert "Score against the number of edits" in page
    assert (directory / "report" / "edits.csv").read_text().count("\n") == 5
    assert "10, 20" in page


def test_several_rounds_are_drawn_over_the_rounds(tmp_path: Path) -> None:
    directory = write_comparison(tmp_path, [made_row("collabedit", rounds=3), made_row("global")])
    assert "Score after each round" in render(directory).read_text(encoding="utf-8")


def test_a_single_run_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(made_row("edit_avg")), encoding="utf-8")
    assert any(row[0] == "edit_avg" for row in _cells(render(tmp_path)))


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

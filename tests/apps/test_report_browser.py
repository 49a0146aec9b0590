"""The report as a browser sees it: whole, silent, and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleke_flwr.apps.report import render
from tests.apps.browser import DARK, visit
from tests.apps.rows import (
    conflicting,
    drifting,
    made_row,
    overlapping,
    personal_row,
    remembering,
    write_comparison,
)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    row = remembering(made_row("collabedit", rounds=2), "dynamic", {1: 90.0, 2: 80.0})
    row = conflicting(overlapping(row, [[1.0, 0.5], [0.25, 1.0]], [0, 3]))
    return render(write_comparison(tmp_path / "run", [drifting(row), personal_row(rounds=2)]))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["", DARK], ids=["light", "dark"])
def test_the_page_loads_nothing_and_the_browser_has_nothing_to_say(
    page: Path, option: str, tmp_path: Path
) -> None:
    seen = visit(page, tmp_path, *filter(None, [option]))
    assert seen.console == []
    assert seen.requested == set()
    assert seen.screenshot.startswith(b"\x89PNG")
    assert len(seen.screenshot) > 50_000  # an empty page has a tenth of it


@pytest.mark.slow
def test_light_and_dark_differ(page: Path, tmp_path: Path) -> None:
    light, dark = (visit(page, tmp_path, *option).screenshot for option in ([], [DARK]))
    assert light != dark


@pytest.mark.slow
def test_a_page_that_loads_something_would_be_noticed(tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text(
        '<img src="http://reports.invalid/x.png"><script>console.error("broken")</script>',
        encoding="utf-8",
    )
    seen = visit(other, tmp_path)
    assert any("broken" in line for line in seen.console)
    assert "http://reports.invalid/x.png" in seen.requested

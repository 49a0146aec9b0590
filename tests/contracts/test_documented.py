"""The pages on editors and models name everything that is registered, with its defaults."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fleke_flwr.editors.base import EDITORS
from fleke_flwr.models.families import FAMILIES

ROOT = Path(__file__).parents[2]


def rows(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def documented_options() -> set[tuple[str, str, str]]:
    return {
        (editor, names(row[1])[0], "".join(names(row[2])))
        for row in rows("editors.md")
        if len(row) == 4 and len(names(row[1])) == 1 and " " not in row[1]
        for editor in names(row[0])
    }


def test_options_of_editors() -> None:
    expected = {
        (name, option, str(default))
        for name in EDITORS.names()
        for option, default in EDITORS.get(name).options.items()
    }
    assert documented_options() == expected


@pytest.mark.parametrize("name", EDITORS.names())
def test_modes_of_editors(name: str) -> None:
    (modes,) = [row[3] for row in rows("editors.md") if len(row) == 4 and name in names(row[0])][:1]
    known = EDITORS.get(name).modes
    assert names(modes) == list(known) or (modes == "all five" and len(known) == 5)


def test_families() -> None:
    found = {names(row[0])[0]: row for row in rows("models.md") if len(row) == 4}
    assert set(found) == set(FAMILIES)
    for family, row in found.items():
        assert names(row[2])[0] == FAMILIES[family].projection


def test_presets() -> None:
    found = {names(row[0])[0]: names(row[2]) for row in rows("models.md") if len(row) == 3}
    expected = {}
    for path in (ROOT / "configs" / "models").glob("*.toml"):
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        expected[path.stem] = [name for name, value in settings.items() if isinstance(value, dict)]
    assert found == expected

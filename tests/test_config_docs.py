"""The table of settings says of every key what the code does with it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.config import RunConfig, parse_overrides
from fleke_flwr.errors import ConfigError

README = Path(__file__).parents[1] / "configs" / "README.md"
CHOICES = {
    "mode",
    "encoding",
    "payload-dtype",
    "model.dtype",
    "data.partition",
    "edit.spread",
    "data.mix-mode",
    "data.balance",
    "data.slot-order",
    "data.zsre-target",
    "fededit.rule",
    "fededit.exchange",
    "fededit.similarity",
}


def rows() -> dict[str, list[str]]:
    lines = README.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells if row[0].startswith("`") and row[1:]}


def shown(value: object) -> str:
    if value == "":
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{str(value).lower()}`"


def with_value(key: str, text: str) -> RunConfig:
    config: dict[str, Any] = RunConfig().to_flat()
    return RunConfig.from_flat(config | parse_overrides([f"{key}={text}"]))


def test_the_table_lists_every_key_in_order_with_its_default() -> None:
    defaults = RunConfig().to_flat()
    table = rows()
    assert list(table) == list(defaults)
    assert {key: cells[0] for key, cells in table.items()} == {
        key: shown(value) for key, value in defaults.items()
    }


def test_every_key_has_a_meaning_and_allowed_values() -> None:
    for key, cells in rows().items():
        assert len(cells) == 3, key
        assert all(cells[1:]), key


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_a_key_takes_the_listed_choices_and_no_other(key: str) -> None:
    allowed = rows()[key][2]
    choices = re.findall(r"`([^`]+)`", allowed)
    assert allowed == ", ".join(f"`{choice}`" for choice in choices)
    assert len(choices) >= 2
    for choice in choices:
        assert str(with_value(key, choice).to_flat()[key]).lower() == choice
    with pytest.raises(ConfigError, match=re.escape(key)) as caught:
        with_value(key, "neither")
    assert all(choice in str(caught.value) for choice in choices)


@pytest.mark.parametrize(
    ("key", "least"),
    [
        (key, int(cells[2].split()[0]))
        for key, cells in rows().items()
        if cells[2].endswith("and more")
    ],
)
def test_the_least_allowed_number_is_accepted_and_less_is_not(key: str, least: int) -> None:
    assert with_value(key, str(least)).to_flat()[key] == least
    # -1 is "not set" where that is the default.
    below = least - 2 if rows()[key][0] == "`-1`" or key.startswith("edit.") else least - 1
    with pytest.raises(ConfigError, match=re.escape(key)):
        with_value(key, str(below))


def test_fewer_clients_may_be_needed_but_not_more() -> None:
    assert rows()["min-clients"][2] == "0 to `clients`"
    assert replace(RunConfig(), min_clients=8).needed_clients == 8
    with pytest.raises(ConfigError, match="min-clients"):
        replace(RunConfig(), min_clients=9)

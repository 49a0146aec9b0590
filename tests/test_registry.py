"""Methods are found by name, by entry point, and by place; mistakes name the nearest."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from importlib.metadata import EntryPoint

import pytest

from fleke_flwr.errors import ConfigError
from fleke_flwr.registry import Registry


@pytest.fixture
def registry() -> Registry[dict]:  # type: ignore[type-arg]  # any dictionary will do
    found: Registry[dict] = Registry("table", dict, "fleke_flwr.tests")  # type: ignore[type-arg]
    found.add("ordered", "collections:OrderedDict")
    return found


def test_a_name_is_resolved(registry: Registry[dict[str, int]]) -> None:
    assert registry.get("ordered") is OrderedDict
    assert registry.names() == ["ordered"]


def test_a_place_needs_no_name(registry: Registry[dict[str, int]]) -> None:
    assert registry.get("collections:Counter") is Counter


def test_another_package_adds_by_entry_point(
    registry: Registry[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("counted", "collections:Counter", "fleke_flwr.tests")

    def points(group: str) -> list[EntryPoint]:
        return [point] if group == point.group else []

    monkeypatch.setattr("fleke_flwr.registry.entry_points", points)
    assert registry.names() == ["counted", "ordered"]
    assert registry.get("counted") is Counter


def test_an_entry_is_imported_only_when_asked_for(registry: Registry[dict[str, int]]) -> None:
    registry.add("absent", "no_such_package:Thing")
    assert registry.names() == ["absent", "ordered"]
    with pytest.raises(ConfigError, match="cannot be imported"):
        registry.get("absent")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("orderd", "unknown table 'orderd'. Did you mean 'ordered'? Known: ordered."),
        ("collections:Absent", "cannot be imported"),
        ("collections:deque", "not a subclass of dict"),
        ("collections:namedtuple", "not a subclass of dict"),
        (":Counter", "write it as 'package.module:Class'"),
        (".collections:Counter", "write it as 'package.module:Class'"),
        ("collections:", "cannot be imported"),
    ],
)
def test_what_is_not_there_is_refused(
    registry: Registry[dict[str, int]], name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        registry.get(name)


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("Upper", "collections:Counter", "lower case"),
        ("with-dash", "collections:Counter", "lower case"),
        ("", "collections:Counter", "lower case"),
        ("_", "collections:Counter", "lower case"),
        ("ordered", "collections:Counter", "already collections:OrderedDict"),
        ("counted", "collections.Counter", "not 'package.module:Class'"),
    ],
)
def test_a_bad_entry_is_refused(
    registry: Registry[dict[str, int]], name: str, place: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        registry.add(name, place)

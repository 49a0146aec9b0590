"""A file of templates is read whole, or refused with what is wrong in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleke_flwr.errors import DataError
from fleke_flwr.templates import read_templates


def test_lists_by_relation_are_read_each_template_once(tmp_path: Path) -> None:
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"P1": ["{} is", "Where is {}?", "{} is"], "P2": ["{} has"]}))
    assert read_templates(path) == {"P1": ("{} is", "Where is {}?"), "P2": ("{} has",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON, line 1"),
        ("[]", "found list; an object with a list of templates"),
        ("{}", "found dict; an object with a list of templates"),
        ('{"P1": "{} is"}', r"relation 'P1': found '\{\} is'; a list of texts"),
        ('{"P1": []}', r"relation 'P1': found \[\]; a list of texts"),
        ('{"P1": ["{} is", 3]}', "relation 'P1': found 3; a text with exactly one slot"),
        ('{"P1": ["somewhere"]}', "found 'somewhere'; a text with exactly one slot"),
        ('{"P1": ["{} and {}"]}', r"found '\{\} and \{\}'; a text with exactly one slot"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "templates.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_templates(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_templates(tmp_path / "none.json")


def test_the_published_templates_are_read(shared_data: Path) -> None:
    found = read_templates(shared_data / "collabedit" / "round_prompts.json")
    assert {len(templates) for templates in found.values()} == {10}
    assert len(found) == 10

"""Further phrasings of relations, from a JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fleke_flwr.artifacts import read_json
from fleke_flwr.errors import DataError

Templates = Mapping[str, tuple[str, ...]]


def read_templates(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the templates of every relation; one that a list repeats counts once.

    Raises
    ------
    DataError
        If the file is missing, is not an object of lists, or a template has not one slot ``{}``.
    """
    content = read_json(path)
    if not isinstance(content, Mapping) or not content:
        raise DataError(
            f"{path}: found {type(content).__name__}; "
            "an object with a list of templates for each relation is needed"
        )
    for relation, templates in content.items():
        if not isinstance(templates, list) or not templates:
            raise DataError(
                f"{path}, relation {relation!r}: found {templates!r}; a list of texts is needed"
            )
        for template in templates:
            if not isinstance(template, str) or template.count("{}") != 1:
                raise DataError(
                    f"{path}, relation {relation!r}: found {template!r}; "
                    "a text with exactly one slot '{}' is needed"
                )
    return {relation: tuple(dict.fromkeys(templates)) for relation, templates in content.items()}

"""Read the rows of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fleke_flwr.errors import DataError


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a comparison, or the one of a run.

    Raises
    ------
    DataError
        If the directory holds no finished run.
    """
    comparison, metrics = directory / "comparison.json", directory / "metrics.json"
    for path in (comparison, metrics):
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                rows: list[dict[str, Any]] = content["rows"] if path == comparison else [content]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f"{path}: not a file of fleke-flwr ({error})") from error
            if any(row.get("schema") != 1 for row in rows):
                raise DataError(f"{path}: another schema than 1; use the version that wrote it")
            return rows
    raise DataError(
        f"{directory}: neither comparison.json nor metrics.json; "
        "name the directory of a finished run"
    )

"""What stands at one place of a source, before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleke_flwr.errors import DataError


@dataclass(frozen=True)
class Row:
    """One record as it was found, or why it could not be read.

    Parameters
    ----------
    place : str
        ``line 3`` or ``record 2``; lines count from 1, records from 0.
    value : Any
        A JSON value, if the record could be read.
    error : DataError or None
        What is wrong otherwise, with file and place.
    """

    place: str
    value: Any = None
    error: DataError | None = None

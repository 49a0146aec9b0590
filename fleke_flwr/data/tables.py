"""Read a table: one record a line, a header that names the columns (RFC 4180).

The delimiter is the one under which the header names most columns of a known schema. Guessing it
from all the text, as ``csv.Sniffer`` does, is not safe here: prompts hold commas and semicolons.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from reprlib import repr as shortened
from typing import Any

from fleke_flwr.data.rows import Row
from fleke_flwr.data.schema import KNOWN_COLUMNS, STRUCTURED, check_columns
from fleke_flwr.errors import DataError, RequestError

_DELIMITERS = (",", ";", "\t")


def read_table(source: str, text: str, owner: str) -> Iterator[Row]:
    """Yield the records of a table.

    An empty cell is a field that is not there. Cells of lists and objects hold JSON.

    Parameters
    ----------
    source : str
        Named in errors.
    text : str
        The whole table.
    owner : str
        The column that names the owner.

    Raises
    ------
    DataError
        If there is no header, or its columns are of no schema.
    """
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next((cells for cells in reader if any(map(str.strip, cells))), None)
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: not valid CSV ({error})") from error
    if header is None:
        return iter(())
    columns = [name.strip() for name in header]
    where = f"{source}, line {reader.line_num}"
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice or "" in columns:
        raise DataError(
            f"{where}: the header names column {shortened(twice[0])} twice; give every column a "
            "name of its own"
            if twice
            else f"{where}: the header has a column without a name; name or remove it"
        )
    try:
        check_columns(columns, owner)
    except RequestError as error:
        raise DataError(f"{where}: {error}") from error
    return _rows(source, reader, columns)


def _delimiter(text: str) -> str:
    first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")

    def known(delimiter: str) -> int:
        names = first.strip().split(delimiter)
        return sum(name.strip(' "') in KNOWN_COLUMNS for name in names)

    return max(_DELIMITERS, key=known)


def _rows(source: str, reader: Any, columns: Sequence[str]) -> Iterator[Row]:
    while True:
        # A quoted cell may hold line ends: a record is named by the line that it begins in.
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = f"{source}, {place}: not valid CSV ({error}); nothing behind it was read"
            yield Row(place, error=DataError(wrong))
            return
        if any(map(str.strip, cells)):
            yield _row(f"{source}, {place}", place, columns, cells)


def _row(where: str, place: str, columns: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(columns):
        wrong = (
            f"{where}: found {len(cells)} cells, the header has {len(columns)} columns; "
            "put quotes around a cell that holds the delimiter"
        )
        return Row(place, error=DataError(wrong))
    found: dict[str, Any] = {}
    for name, cell in zip(columns, cells, strict=True):
        if not cell.strip():
            continue
        try:
            found[name] = json.loads(cell) if name in STRUCTURED else cell
        except (RecursionError, ValueError):
            wrong = (
                f"{where}: column {name!r} holds {shortened(cell)}; write JSON, "
                'such as ["one text", "another"]'
            )
            return Row(place, error=DataError(wrong))
    return Row(place, found)

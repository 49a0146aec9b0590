"""Read a data set of the Hugging Face hub by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fleke_flwr.data.rows import Row
from fleke_flwr.data.schema import check_columns
from fleke_flwr.errors import DataError, RequestError
from fleke_flwr.suggest import unknown

HUB = "hub:"


def read_hub(path: str, split: str, owner: str) -> Iterator[Row]:
    """Yield the records of a data set.

    Parameters
    ----------
    path : str
        ``hub:owner/name``, or ``hub:owner/name/config`` where it has several configurations.
    split : str
        Which part of it, as ``datasets`` writes it: also ``train[:100]``.
    owner : str
        The column that names the owner.

    Raises
    ------
    DataError
        If the name is none, the data set cannot be loaded, it has no such split, or its columns are
        of no schema.
    """
    parts = path.removeprefix(HUB).split("/")
    if len(parts) not in (2, 3) or not all(part.strip() for part in parts):
        raise DataError(f"data.path = {path!r}: write hub:owner/name or hub:owner/name/config")
    name, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    table = _loaded(path, name, config, split)
    try:
        check_columns(table.column_names, owner)
    except RequestError as error:
        raise DataError(f"{path}, split {split}: {error}") from error
    return (Row(f"record {index}", value) for index, value in enumerate(table))


def _loaded(path: str, name: str, config: str | None, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config, split=split)
    # The last one of arguments that its own builders pass on.
    except (DatasetsError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        known: list[str] = []
        with suppress(DatasetsError, OSError, ValueError, RuntimeError, KeyError, TypeError):
            known = list(datasets.get_dataset_split_names(name, config))
        if known and split.partition("[")[0] not in known and "+" not in split:
            raise DataError(f"{path}: data.split: {unknown('split', split, known)}") from error
        raise DataError(f"{path}: cannot be loaded ({_line(error)}){_hint(error)}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _line(error: Exception) -> str:
    # What failed while a data set is built says so only in its cause.
    is_wrapped = type(error).__name__ == "DatasetGenerationError"
    lines = str((is_wrapped and error.__cause__) or error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _hint(error: Exception) -> str:
    if isinstance(error, ConnectionError):
        return "; without a network, give a data file: data.path=FILE"
    return "; correct data.path or data.split"

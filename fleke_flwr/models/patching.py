"""Add edits to a model directory, and take them out again bit for bit.

Beside the weights the directory keeps ``fleke-edits/``: a log of what was applied, and the tensors
as they were before each application.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fleke_flwr.artifacts import read_json, read_tensors, write_json, write_tensors
from fleke_flwr.config import ModelConfig
from fleke_flwr.errors import ConfigError, DataError, ModelError
from fleke_flwr.models.checkpoint import Checkpoint, hash_of
from fleke_flwr.models.directories import new_directory, replaced_directory
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.models.orientation import relative_rounding, stored_change
from fleke_flwr.state import EditState

FOLDER = "fleke-edits"
_LOG = "log.json"
# A state in float64 may be that of a model in float64; of others it does not tell the format.
_FORMATS = ("float32", "bfloat16", "float16")

# A clone of a repository holds everything a second time.
_HIDDEN = shutil.ignore_patterns(".git", ".cache")

Entry = dict[str, Any]


@dataclass(frozen=True)
class Patch:
    """What was done to a model directory.

    Parameters
    ----------
    directory : Path
        The one that was written.
    entry : dict
        The log's line of the edits that came or went.
    remaining : int
        How many sets of edits are in the model now.
    beside : tuple[str, ...]
        Sets of edits that were in the model already and that these edits do not know of.
    unedited : tuple[str, ...]
        Files with weights in other formats, which stay as they are.
    """

    directory: Path
    entry: Entry
    remaining: int
    beside: tuple[str, ...] = ()
    unedited: tuple[str, ...] = ()


def applied_edits(directory: Path) -> list[Entry]:
    """Return the log of a model directory, oldest edits first; empty without edits.

    Raises
    ------
    DataError
        If the log is damaged.
    """
    path = directory / FOLDER / _LOG
    if not path.is_file():
        return []
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != 1:
        raise DataError(f"{path}: not a log of fleke-flwr (schema 1)")
    entries: list[Entry] = content["applied"]
    return entries


def apply_edits(
    state: EditState, source: Path, output: Path | None, *, name: str = "", dtype: str = ""
) -> Patch:
    """Add edits to the weights in a model directory.

    Sums are formed in the wider of the stored format and the one that the edits were made in, and
    rounded once to the stored one.

    Parameters
    ----------
    state : EditState
        The edits.
    source : Path
        Model directory.
    output : Path or None
        A new directory for the edited copy; ``None`` edits in place.
    name : str
        What the log calls the edits.
    dtype : str
        Format in which the base model was read when the edits were made; all are tried without it.

    Raises
    ------
    ConfigError
        If the output exists, or the directory cannot be replaced.
    DataError
        If the edits are in the model already.
    ModelError
        If the edits were made for another model, the weights were changed since the last edits, or
        their format cannot hold the sum.
    """
    directory = source.expanduser().resolve()
    checkpoint, log = _opened(directory)
    if state.fingerprint in [entry["edits"] for entry in log]:
        raise DataError(f"{source}: edits {state.fingerprint} are in this model already")
    model, found = _base_of(state, directory, log, dtype)
    before, after, lost = _summed(state, checkpoint, model, getattr(torch, found))
    originals = f"{len(log) + 1}.safetensors"
    entry: Entry = {
        "name": name,
        "edits": state.fingerprint,
        "base": state.base,
        "model": model.fingerprint,
        "dtype": found,
        "rounds": state.round,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounding": lost,
        "tensors": sorted(after),
        "originals": originals,
    }
    unknown = () if state.base == model.fingerprint else _unknown_to(state, log)
    with _writing(directory, output) as target:
        write_tensors(target / FOLDER / originals, before)
        entry["originals_sha256"] = hash_of(target / FOLDER / originals)
        edited = Checkpoint(target, checkpoint.files)
        entry["rewritten"] = edited.write(after)
        entry["files"] = edited.hashes()
        _write_log(target, [*log, entry])
        shutil.copymode(target / FOLDER / _LOG, target / FOLDER / originals)
    place = directory if output is None else output
    return Patch(place, entry, len(log) + 1, unknown, tuple(checkpoint.other_formats))


def revert_edits(source: Path, output: Path | None) -> Patch:
    """Take the last edits out of a model directory; the weights come back bit for bit.

    Parameters
    ----------
    source : Path
        A directory that :func:`apply_edits` has written.
    output : Path or None
        A new directory for the reverted copy; ``None`` reverts in place.

    Raises
    ------
    ConfigError
        If the output exists, or the directory cannot be replaced.
    DataError
        If no edits were applied, or the kept originals are not those of the log.
    ModelError
        If the weights were changed since.
    """
    directory = source.expanduser().resolve()
    checkpoint, log = _opened(directory)
    if not log:
        raise DataError(f"{source}: no edits in its log; nothing was applied by fleke apply")
    *rest, entry = log
    kept = directory / FOLDER / entry["originals"]
    originals, _ = read_tensors(kept)
    if hash_of(kept) != entry["originals_sha256"]:
        raise DataError(f"{kept}: is not the file that fleke apply wrote; nothing was changed")
    with _writing(directory, output) as target:
        reverted = Checkpoint(target, checkpoint.files)
        reverted.write(originals)
        if rest:
            (target / FOLDER / entry["originals"]).unlink()
            rest[-1]["files"] = reverted.hashes()
            _write_log(target, rest)
        else:
            shutil.rmtree(target / FOLDER)
    place = directory if output is None else output
    return Patch(place, entry, len(rest), unedited=tuple(checkpoint.other_formats))


def _opened(directory: Path) -> tuple[Checkpoint, list[Entry]]:
    """Open a directory; refuse one whose weights are not those that its log speaks of."""
    if not directory.is_dir():
        raise ModelError(f"model directory {directory}: no such directory")
    checkpoint, log = Checkpoint.open(directory), applied_edits(directory)
    if log and checkpoint.hashes() != log[-1]["files"]:
        raise ModelError(
            f"model directory {directory}: its weights were changed after edits "
            f"{log[-1]['edits']} were applied; only what fleke apply wrote can be built on"
        )
    return checkpoint, log


def _base_of(
    state: EditState, directory: Path, log: list[Entry], dtype: str
) -> tuple[EditableModel, str]:
    """Load the directory in the format in which it is, or was, the base of the edits."""
    formats = [dtype] if dtype else _formats_of(state)
    known = {entry["base"]: entry["dtype"] for entry in log}
    if state.base in known:
        formats = [known[state.base]]
    tried = {}
    for name in formats:
        model = load_model(ModelConfig(name=str(directory), dtype=name))
        if state.base == model.fingerprint or state.base in known:
            return model, name
        tried[name] = model.fingerprint
    found = ", ".join(f"{value} in {name}" for name, value in tried.items())
    raise ModelError(
        f"model directory {directory}: is {found}; the edits were made for {state.base}; "
        "name the model that was edited"
    )


def _formats_of(state: EditState) -> list[str]:
    dtypes = {update.left.dtype for update in state.updates.values()}
    return [*(["float64"] if dtypes == {torch.float64} else []), *_FORMATS]


def _unknown_to(state: EditState, log: list[Entry]) -> tuple[str, ...]:
    """Name the edits that were applied to the base that these edits were made for."""
    first = next(index for index, entry in enumerate(log) if entry["base"] == state.base)
    return tuple(entry["edits"] for entry in log[first:])


def _summed(
    state: EditState, checkpoint: Checkpoint, model: EditableModel, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Return the stored tensors without and with the edits, and what rounding took."""
    before, after, lost = {}, {}, {}
    for module, update in state.updates.items():
        change = stored_change(model.model, module, update)
        name = checkpoint.name_of(module)
        weight = checkpoint.read(name)
        wide = torch.promote_types(weight.dtype, dtype)
        edited = (weight.to(wide) + change.to(wide)).to(weight.dtype)
        if not bool(edited.isfinite().all()):
            raise ModelError(
                f"{checkpoint.directory / checkpoint.files[name]}: {name} with the edits exceeds "
                f"the range of {weight.dtype}; export the model in float32 instead"
            )
        before[name], after[name] = weight, edited
        lost[name] = relative_rounding(weight, edited, change)
    if not after:
        raise ModelError("the edits are empty; there is nothing to apply")
    return before, after, lost


def _writing(directory: Path, output: Path | None) -> AbstractContextManager[Path]:
    """Give a whole copy to change, which takes its place at the end."""
    if output is not None:
        return _copied(directory, output.expanduser())
    links = [path.name for path in directory.glob("*.safetensors") if path.is_symlink()]
    if links:
        raise ConfigError(
            f"model directory {directory}: {links[0]} is a link, as in a cache that other programs "
            "share; write a copy with --output"
        )
    return replaced_directory(directory)


@contextmanager
def _copied(directory: Path, output: Path) -> Iterator[Path]:
    if output.resolve().is_relative_to(directory):
        raise ConfigError(f"{output}: lies inside the model directory; name one outside")
    with new_directory(output) as target:
        shutil.copytree(directory, target, dirs_exist_ok=True, ignore=_HIDDEN)
        yield target


def _write_log(directory: Path, entries: list[Entry]) -> None:
    write_json(directory / FOLDER / _LOG, {"schema": 1, "applied": entries})

"""``fleke apply`` and ``fleke revert``: edits into a model directory, and out again."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fleke_flwr.apps.edited import Edited, run_name
from fleke_flwr.artifacts import read_json
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.patching import Patch, apply_edits, revert_edits
from fleke_flwr.state import EditState


def apply(
    edits: Path, model: str, output: Path | None, *, in_place: bool, client: int | None
) -> Patch:
    """Add edits to a model directory.

    Parameters
    ----------
    edits : Path
        A file ``edits.safetensors``, or a finished run.
    model : str
        A model directory, or ``embedded``.
    output : Path or None
        A new directory for the edited copy.
    in_place : bool
        Edit the directory itself.
    client : int or None
        Whose model of a run with personal ones.

    Raises
    ------
    ConfigError
        If not exactly one of ``output`` and ``in_place`` is given, or the output exists.
    DataError
        If the edits are missing, or in the model already.
    ModelError
        If they were made for another model.
    """
    if (output is None) != in_place:
        raise ConfigError("name either --output DIR for an edited copy, or --in-place")
    if in_place and model == "embedded":
        raise ConfigError("the embedded model stays as it is; write a copy with --output")
    state, name, dtype = _read(edits.expanduser(), client)
    return apply_edits(state, _directory(model), output, name=name, dtype=dtype)


def revert(model: Path, output: Path | None) -> Patch:
    """Take the last edits out of a model directory, in place or in a copy."""
    return revert_edits(model, output)


def _read(edits: Path, client: int | None) -> tuple[EditState, str, str]:
    """Return the edits, what to call them, and the format of their base model if it is known."""
    if edits.is_dir() and not (edits / "edits.json").is_file():
        edited = Edited.open(edits, client)
        about = edited.provenance()
        return edited.state, run_name(about), str(about["base"]["dtype"])
    if client is not None:
        raise ConfigError("--client goes with a run, not with a file of edits")
    file = edits / "edits.safetensors" if edits.is_dir() else edits
    description = file.with_name("edits.json")
    dtype = read_json(description)["base"]["dtype"] if description.is_file() else ""
    return EditState.load(file), file.name, str(dtype)


def _directory(model: str) -> Path:
    if model == "embedded":
        from fleke_flwr.world import embedded_directory

        return embedded_directory()
    return Path(model)


def show_patch(patch: Patch, console: Console, *, reverted: bool = False) -> None:
    """Print what was done, what rounding took and what stays as it was."""
    entry, did = patch.entry, "reverted" if reverted else "applied"
    _say(console, f"{did}: edits {entry['edits']} ({entry['name']}), in {patch.directory}")
    if not reverted:
        worst = max(entry["rounding"].values())
        _say(
            console,
            f"{len(entry['tensors'])} weights in {len(entry['rewritten'])} files; rounding to the "
            f"stored format takes {100 * worst:.2g} % of the update at most",
        )
    if patch.beside:
        _say(
            console,
            f"note: made without knowing of {', '.join(patch.beside)}, which are in the model: the "
            "updates are added and can disturb each other; measure with fleke evaluate",
        )
    if patch.unedited:
        _say(console, f"note: not edited, other formats: {', '.join(patch.unedited)}")
    count = patch.remaining
    _say(console, f"{count} set{'' if count == 1 else 's'} of edits in the model now")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

"""Write the edited model of a finished run so that it is used without this package."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fleke_flwr.apps.edited import Edited, run_name
from fleke_flwr.apps.model_card import model_card
from fleke_flwr.artifacts import write_json, write_text
from fleke_flwr.errors import ConfigError
from fleke_flwr.models.adapter import save_adapter
from fleke_flwr.models.directories import check_free, new_directory
from fleke_flwr.models.orientation import is_transposed, stored_change
from fleke_flwr.models.saving import save_edited
from fleke_flwr.state import tensors_of

_DTYPES = ("float64", "float32", "bfloat16", "float16")
_HF_USAGE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this directory")
tokenizer = AutoTokenizer.from_pretrained("this directory")"""
_PEFT_USAGE = """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("the base model", dtype="{dtype}")
model = PeftModel.from_pretrained(model, "this directory")"""

Modules = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ExportOrder:
    """What ``fleke export`` was asked for.

    Parameters
    ----------
    run : Path
        Directory of a finished run, or ``RUN/variants/NAME``.
    format : str
        One of ``FORMATS``.
    output : Path
        A new directory.
    client : int or None
        Whose model, where models are personal.
    rank : int or None
        Largest rank of an adapter.
    dtype : str
        Format of the weights of a whole model; empty for the run's.
    """

    run: Path
    format: str
    output: Path
    client: int | None = None
    rank: int | None = None
    dtype: str = ""

    def __post_init__(self) -> None:
        """Refuse what does not go together, before anything is loaded.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        if self.format not in FORMATS:
            raise ConfigError(f"--format {self.format!r}: choose from {', '.join(FORMATS)}")
        if self.rank is not None and self.format != "peft":
            raise ConfigError(f"--rank goes with --format peft, not {self.format}")
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"--rank {self.rank}: an adapter has at least rank 1")
        if self.dtype and self.format != "hf":
            raise ConfigError(f"--dtype goes with --format hf, not {self.format}")
        if self.dtype and self.dtype not in _DTYPES:
            raise ConfigError(f"--dtype {self.dtype!r}: choose from {', '.join(_DTYPES)}")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    order : ExportOrder
        As asked for.
    about : dict
        Content of the JSON file beside the weights.
    bytes : int
        Size of the directory.
    """

    order: ExportOrder
    about: dict[str, Any]
    bytes: int


def export(order: ExportOrder) -> Exported:
    """Write a model, an adapter or the updates to a new directory, whole or not at all.

    Raises
    ------
    ConfigError
        If the output exists, no client or a wrong one is chosen, or the rank is not the update's.
    DataError
        If the directory holds no finished run, or a comparison without a named variant.
    ModelError
        If the base model is another one now.
    """
    output = order.output.expanduser()
    check_free(output)
    edited = Edited.open(order.run, order.client)
    with new_directory(output) as directory:
        about = {**edited.provenance(), "format": order.format}
        about["modules"] = FORMATS[order.format](edited, order, directory)
        name, usage = _FILES[order.format]
        write_json(directory / name, about)
        if usage:
            library = "transformers" if order.format == "hf" else order.format
            usage = usage.format(dtype=about["base"]["dtype"])
            write_text(directory / "README.md", model_card(about, usage, library))
        _share(directory, like=directory / name)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Exported(order, about, size)


def _share(directory: Path, like: Path) -> None:
    """Let those read the weights who read the rest: safetensors makes files for their owner."""
    for path in directory.iterdir():
        shutil.copymode(like, path)


def _whole_model(edited: Edited, order: ExportOrder, directory: Path) -> Modules:
    config = edited.finished.config.model
    dtype = order.dtype or config.dtype
    lost = save_edited(
        edited.finished.model,
        edited.state.updates,
        directory,
        getattr(torch, dtype),
        config.revision,
    )
    return {name: {"dtype": dtype, "rounding": value} for name, value in lost.items()}


def _adapter(edited: Edited, order: ExportOrder, directory: Path) -> Modules:
    model = edited.finished.model
    base = str(model.directory or model.name)
    parts = save_adapter(model, edited.state.updates, directory, order.rank, base)
    return {
        name: {
            "rank": part.rank,
            "full_rank": part.full_rank,
            "energy": part.energy,
            "error": part.error,
        }
        for name, part in parts.items()
    }


def _updates(edited: Edited, order: ExportOrder, directory: Path) -> Modules:
    edited.state.save(directory / "edits.safetensors")
    model = edited.finished.model.model
    return {
        name: {
            "weight": f"{name}.weight",
            "shape": list(update.shape),
            "transposed": is_transposed(model, name),
            "parts": {part: list(tensor.shape) for part, tensor in tensors_of(update).items()},
            "norm": float(stored_change(model, name, update).double().norm()),
        }
        for name, update in edited.state.updates.items()
    }


FORMATS: Mapping[str, Callable[[Edited, ExportOrder, Path], Modules]] = {
    "hf": _whole_model,
    "peft": _adapter,
    "edits": _updates,
}
# The JSON file of each format, and how what it describes is loaded.
_FILES = {
    "hf": ("provenance.json", _HF_USAGE),
    "peft": ("provenance.json", _PEFT_USAGE),
    "edits": ("edits.json", ""),
}


def show_export(exported: Exported, console: Console) -> None:
    """Print what was written, and what it leaves out."""
    about, order = exported.about, exported.order
    whose = "" if about["client"] is None else f" of client {about['client']}"
    _say(
        console,
        f"{order.format}: {about['edits']} edits{whose} of {run_name(about)}, "
        f"{exported.bytes / 2**20:.1f} MiB in {order.output}",
    )
    columns = next(iter(about["modules"].values()))
    shown = [key for key in columns if key in _COLUMNS]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("module", no_wrap=True)
    for key in shown:
        table.add_column(_COLUMNS[key], justify="right", no_wrap=True)
    for name, figures in about["modules"].items():
        table.add_row(name, *(_shown(key, figures[key]) for key in shown))
    console.print(table)
    wanted = about["base"]["dtype"]
    if order.dtype and order.dtype != wanted:
        _say(console, f"all weights are rounded from {wanted} to {order.dtype}")


_COLUMNS = {
    "dtype": "stored in",
    "rounding": "lost by rounding",
    "rank": "rank",
    "full_rank": "of",
    "energy": "energy kept",
    "error": "relative error",
    "shape": "shape",
    "norm": "norm",
}


def _shown(key: str, value: Any) -> str:
    if key == "energy":
        return f"{100 * value:.4f} %"
    if key == "shape":
        return " x ".join(str(size) for size in value)
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

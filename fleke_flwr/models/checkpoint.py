"""The safetensors files of a model directory: one, or several with an index."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fleke_flwr.artifacts import read_json
from fleke_flwr.errors import DataError, ModelError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHER_FORMATS = ("*.bin", "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.pth")


@dataclass(frozen=True)
class Checkpoint:
    """Stored weights of a model.

    Parameters
    ----------
    directory : Path
        Of the model.
    files : Mapping[str, str]
        Name of the file that holds each tensor.
    """

    directory: Path
    files: Mapping[str, str]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read which tensor is where; of a single file and an index the file counts.

        Raises
        ------
        ModelError
            If there are no such files, or one is missing or damaged.
        """
        if (directory / _SINGLE).is_file():
            files = dict.fromkeys(_names(directory / _SINGLE), _SINGLE)
        elif (directory / _INDEX).is_file():
            files = _indexed(directory / _INDEX)
        else:
            raise ModelError(
                f"model directory {directory}: neither {_SINGLE} nor {_INDEX}; "
                "save the model there with save_pretrained"
            )
        for file in sorted(set(files.values())):
            if not (directory / file).is_file():
                raise ModelError(f"{directory / _INDEX}: names {file}, which is missing")
        return cls(directory, files)

    @property
    def weight_files(self) -> list[str]:
        """Names of the files, sorted."""
        return sorted(set(self.files.values()))

    @property
    def other_formats(self) -> list[str]:
        """Weights that are kept in further formats, which are never edited."""
        found = {path.name for kind in _OTHER_FORMATS for path in self.directory.glob(kind)}
        return sorted(found)

    def name_of(self, module: str) -> str:
        """Return what the files call the weight of a module.

        Checkpoints saved from the model without its head, or from a larger model that it is a part
        of, have other names in front; what follows from the list of blocks on is the same.

        Raises
        ------
        ModelError
            If no tensor has that name, or several have.
        """
        whole = f"{module}.weight"
        parts = whole.split(".")
        numbered = [place for place, part in enumerate(parts) if part.isdigit()]
        for start in range(numbered[0] if numbered else 1):
            tail = ".".join(parts[start:])
            found = [name for name in self.files if name == tail or name.endswith(f".{tail}")]
            if len(found) == 1:
                return found[0]
        raise ModelError(
            f"model directory {self.directory}: no tensor {whole!r}, or several, in its files"
        )

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        with safe_open(self.directory / self.files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def write(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Replace tensors; only the files that hold one are written anew, each beside its place.

        Returns
        -------
        list[str]
            Names of these files.
        """
        by_file: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            by_file[self.files[name]][name] = tensor
        for file, changed in by_file.items():
            path = self.directory / file
            with safe_open(path, framework="pt") as opened:
                metadata = opened.metadata()
            partial = path.with_name(f".{file}.partial")
            try:
                save_file({**load_file(path), **changed}, partial, metadata=metadata)
                # safetensors makes files that only their owner may read.
                shutil.copymode(path, partial)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return sorted(by_file)

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every file with weights."""
        return {file: hash_of(self.directory / file) for file in self.weight_files}


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged safetensors file ({error})") from error


def _indexed(path: Path) -> dict[str, str]:
    try:
        files = read_json(path)["weight_map"]
        return {str(name): str(file) for name, file in files.items()}
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not an index of safetensors files ({error!r})") from error

"""Directories that are either whole or absent: filled beside their place and renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from fleke_flwr.errors import ConfigError


def check_free(path: Path) -> None:
    """Refuse a place that is taken.

    Raises
    ------
    ConfigError
        If there is a file, or a directory that is not empty.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: exists already; name a new directory")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a directory to fill; it is moved to ``path`` unless the block fails.

    Raises
    ------
    ConfigError
        If ``path`` is taken, or nothing can be written there.
    """
    check_free(path)
    partial = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        os.rename(partial, path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Give a copy of a directory to change; it takes the directory's place unless the block fails.

    The copy's files are hard links, so that a large model is not copied: replace them, never write
    into them.

    Raises
    ------
    ConfigError
        If the directory cannot be replaced.
    """
    path = path.resolve()
    if os.path.ismount(path) or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: cannot be replaced where it is; write a copy with --output")
    partial, old = _beside(path), _beside(path)
    try:
        shutil.copytree(path, partial, symlinks=True, copy_function=_linked)
        yield partial
        _swap(partial, path, old)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be written, and is as it was ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old)


def _swap(new: Path, path: Path, old: Path) -> None:
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target

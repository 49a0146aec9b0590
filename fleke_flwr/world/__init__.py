"""The embedded default: a generated world of facts and a small language model that knows it."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from fleke_flwr.errors import ModelError

if TYPE_CHECKING:
    from fleke_flwr.world.build import train_embedded, train_on_records

__all__ = ["embedded_directory", "embedded_records", "train_embedded", "train_on_records"]


def embedded_directory() -> Path:
    """Return the directory of the shipped model.

    A Flower bundle carries code and no weights; there, the model of the installed package counts.

    Raises
    ------
    ModelError
        If the package is not installed where a bundle runs.
    """
    beside = Path(__file__).resolve().parent / "model"
    return beside if beside.is_dir() else _installed()


def _installed() -> Path:
    try:
        package = distribution("fleke-flwr")
    except PackageNotFoundError as error:
        raise ModelError(
            "the embedded model is not in this bundle; install fleke-flwr on this node, "
            "or give model.name"
        ) from error
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        root = Path(url2pathname(urlparse(origin["url"]).path))
    else:
        root = Path(str(package.locate_file("")))
    return root / "fleke_flwr" / "world" / "model"


def embedded_records() -> list[dict[str, Any]]:
    """Return the records of the shipped world, in the CounterFact schema.

    They are generated from the seed that the shipped model was trained with; the first 1,900 are
    about different subjects. Besides the schema's fields each has ``same_subject`` (the subject's
    other facts, ``prompt`` and ``target``) and ``references`` (sentences about other subjects
    that truly have the new object).
    """
    from fleke_flwr.world.facts import FactsConfig, build_facts

    return list(build_facts(FactsConfig()).records)


def __getattr__(name: str) -> object:
    """Resolve what needs torch on first use."""
    if name not in {"train_embedded", "train_on_records"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fleke_flwr.world import build

    return getattr(build, name)

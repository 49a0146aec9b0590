"""Federated knowledge editing of language models, as a Flower plug-in.

Importing this package loads neither torch nor flwr: public names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# In a checkout and inside a Flower bundle the sources of ``fleke_flwr.strategies`` and
# ``fleke_flwr.apps`` lie beside this package; in an installed wheel they lie inside it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and str(_ROOT) not in __path__:
    __path__.append(str(_ROOT))

_EXPORTS = {
    "EditPayload": "fleke_flwr.types",
    "EditRequest": "fleke_flwr.types",
    "EditState": "fleke_flwr.state",
    "EvalCase": "fleke_flwr.types",
    "FlekeError": "fleke_flwr.errors",
    "LayerStatistics": "fleke_flwr.types",
    "LayerUpdate": "fleke_flwr.types",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> object:
    """Resolve a public name on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)

"""Federated knowledge editing of language models, as a Flower plug-in.

The names listed here, and those of ``fleke_flwr.strategies``, ``fleke_flwr.editors`` and
``fleke_flwr.testing``, are the public interface; ``docs/stability.md`` says what is promised.
Importing this package loads neither torch nor flwr: public names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleke_flwr.config import RunConfig as RunConfig
    from fleke_flwr.config import load_config as load_config
    from fleke_flwr.data.benchmarks import CaseSet as CaseSet
    from fleke_flwr.data.benchmarks import load_cases as load_cases
    from fleke_flwr.editors import EDITORS as EDITORS
    from fleke_flwr.editors import EditMethod as EditMethod
    from fleke_flwr.editors import Editor as Editor
    from fleke_flwr.editors import Readings as Readings
    from fleke_flwr.editors import StatisticsEditor as StatisticsEditor
    from fleke_flwr.editors import Targets as Targets
    from fleke_flwr.editors import UpdateEditor as UpdateEditor
    from fleke_flwr.errors import ConfigError as ConfigError
    from fleke_flwr.errors import DataError as DataError
    from fleke_flwr.errors import FlekeError as FlekeError
    from fleke_flwr.errors import ModelError as ModelError
    from fleke_flwr.errors import PayloadError as PayloadError
    from fleke_flwr.errors import RequestError as RequestError
    from fleke_flwr.errors import RunError as RunError
    from fleke_flwr.errors import StatisticsError as StatisticsError
    from fleke_flwr.errors import UnsupportedModelError as UnsupportedModelError
    from fleke_flwr.errors import WorldError as WorldError
    from fleke_flwr.linalg import Prior as Prior
    from fleke_flwr.linalg import solve as solve
    from fleke_flwr.models import EditableModel as EditableModel
    from fleke_flwr.models import load_model as load_model
    from fleke_flwr.progress import Progress as Progress
    from fleke_flwr.progress import Silent as Silent
    from fleke_flwr.registry import Registry as Registry
    from fleke_flwr.spec import EditSpec as EditSpec
    from fleke_flwr.state import EditState as EditState
    from fleke_flwr.strategies import STRATEGIES as STRATEGIES
    from fleke_flwr.strategies import EditStrategy as EditStrategy
    from fleke_flwr.strategies import FederatedStrategy as FederatedStrategy
    from fleke_flwr.strategies import Plan as Plan
    from fleke_flwr.strategies.nodes import Node as Node
    from fleke_flwr.strategies.options import option as option
    from fleke_flwr.strategies.rounds import RoundRecord as RoundRecord
    from fleke_flwr.types import EditPayload as EditPayload
    from fleke_flwr.types import EditRequest as EditRequest
    from fleke_flwr.types import EvalCase as EvalCase
    from fleke_flwr.types import LayerStatistics as LayerStatistics
    from fleke_flwr.types import LayerUpdate as LayerUpdate
    from fleke_flwr.types import MemoryVectors as MemoryVectors
    from fleke_flwr.types import Probe as Probe
    from fleke_flwr.wire import STATISTICS as STATISTICS
    from fleke_flwr.wire import UPDATES as UPDATES

__version__ = "0.1.0"

# In a checkout and inside a Flower bundle the sources of ``fleke_flwr.strategies`` and
# ``fleke_flwr.apps`` lie beside this package; in an installed wheel they lie inside it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and str(_ROOT) not in __path__:
    __path__.append(str(_ROOT))

# Which module holds which public names; what type checkers read stands above.
_HOMES = {
    "config": ("RunConfig", "load_config"),
    "data.benchmarks": ("CaseSet", "load_cases"),
    "editors": (
        "EDITORS",
        "EditMethod",
        "Editor",
        "Readings",
        "StatisticsEditor",
        "Targets",
        "UpdateEditor",
    ),
    "errors": (
        "ConfigError",
        "DataError",
        "FlekeError",
        "ModelError",
        "PayloadError",
        "RequestError",
        "RunError",
        "StatisticsError",
        "UnsupportedModelError",
        "WorldError",
    ),
    "linalg": ("Prior", "solve"),
    "models": ("EditableModel", "load_model"),
    "progress": ("Progress", "Silent"),
    "registry": ("Registry",),
    "spec": ("EditSpec",),
    "state": ("EditState",),
    "strategies": ("STRATEGIES", "EditStrategy", "FederatedStrategy", "Plan"),
    "strategies.nodes": ("Node",),
    "strategies.options": ("option",),
    "strategies.rounds": ("RoundRecord",),
    "types": (
        "EditPayload",
        "EditRequest",
        "EvalCase",
        "LayerStatistics",
        "LayerUpdate",
        "MemoryVectors",
        "Probe",
    ),
    "wire": ("STATISTICS", "UPDATES"),
}
_PLACES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_PLACES]

if not TYPE_CHECKING:
    # Hidden from type checkers, for which a misspelt name would otherwise be an ``object``.

    def __getattr__(name: str) -> object:
        """Resolve a public name on first use."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, resolved or not."""
    return sorted({*globals(), *_PLACES})

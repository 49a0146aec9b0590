"""Editors: from edit requests to target vectors, statistics or updates of weights."""

from fleke_flwr.editors.adaple import AdaPLE
from fleke_flwr.editors.alphaedit import AlphaEdit
from fleke_flwr.editors.base import (
    EDITORS,
    EditMethod,
    Editor,
    Readings,
    StatisticsEditor,
    Targets,
    UpdateEditor,
)
from fleke_flwr.editors.emmet import Emmet
from fleke_flwr.editors.ft import FineTuning, FineTuningW
from fleke_flwr.editors.malmen import Malmen
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.mend import Mend
from fleke_flwr.editors.pmet import Pmet
from fleke_flwr.editors.rome import Rome

__all__ = [
    "EDITORS",
    "AdaPLE",
    "AlphaEdit",
    "EditMethod",
    "Editor",
    "Emmet",
    "FineTuning",
    "FineTuningW",
    "Malmen",
    "Memit",
    "Mend",
    "Pmet",
    "Readings",
    "Rome",
    "StatisticsEditor",
    "Targets",
    "UpdateEditor",
]

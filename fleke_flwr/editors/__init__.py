"""Editors: from edit requests to target vectors, keys and additive statistics."""

from fleke_flwr.editors.base import EDITORS, Editor, Readings, Targets
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.pmet import Pmet

__all__ = ["EDITORS", "Editor", "Memit", "Pmet", "Readings", "Targets"]

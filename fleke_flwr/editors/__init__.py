"""Editors: from edit requests to target vectors, keys and additive statistics."""

from fleke_flwr.editors.base import EDITORS, Editor, Readings, Targets

__all__ = ["EDITORS", "Editor", "Readings", "Targets"]

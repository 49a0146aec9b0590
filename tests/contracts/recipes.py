"""Small recipes for every editor on every tiny model, and what an editor needs beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fleke_flwr.apps.central import EditSequence
from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS, EditMethod
from fleke_flwr.editors.hyper.modules import edited_modules
from fleke_flwr.editors.hyper.network import NETWORKS
from fleke_flwr.editors.hyper.storage import save_network
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import Wanted, resolve_spec
from fleke_flwr.types import EditRequest, LayerUpdate

LAYERS = (0, 2)
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "rome": {"edit.layers": "1"},
    "ft": {"edit.learning-rate": 0.01},
    "ft_w": {"edit.learning-rate": 0.01},
}
"""What editors want otherwise: a single layer, or a step that moves weights and no vectors."""


@dataclass(frozen=True)
class Cell:
    """One editor on one model, ready to edit."""

    config: RunConfig
    editor: EditMethod
    model: EditableModel
    priors: Mapping[str, Prior]

    def edit(
        self, requests: list[EditRequest], progress: Progress | None = None
    ) -> Mapping[str, LayerUpdate]:
        """Edit at one place, as ``fleke edit`` does."""
        work = EditSequence(self.config, self.editor, self.model, self.priors, progress or Silent())
        work.edit(requests, 1)
        return work.state.updates


def own_settings(
    name: str, model: EditableModel, folder: Path, layers: Sequence[int] = LAYERS
) -> dict[str, Any]:
    """Return the settings of a run that an editor needs on a tiny model."""
    settings: dict[str, Any] = {"edit.layers": ",".join(map(str, layers))}
    if name in NETWORKS:
        settings["edit.options"] = f"network={untrained(name, model, layers, folder / name)}"
    return {**settings, **NEEDS.get(name, {})}


def cell(name: str, model: EditableModel, folder: Path, **settings: Any) -> Cell:
    """Return an editor on a model, its recipe checked."""
    kind = EDITORS.get(name)
    flat = {
        "model.name": model.name,
        "editor": name,
        "mode": "joint" if "joint" in kind.modes else kind.modes[0],
        "edit.steps": 2,
        # Several batches of these requests, so that an edit can be stopped between two.
        "edit.batch-tokens": 200,
        **own_settings(name, model, folder),
        **settings,
    }
    config = RunConfig.from_flat(flat)
    contexts = ("{}", "I saw that. {}")
    wanted = Wanted(kind.settings, kind.options)
    editor = kind(resolve_spec(config, model.settings, contexts, wanted))
    editor.check(model)
    return Cell(config, editor, model, editor.priors(model, lambda: moments(editor, model)))


def moments(editor: EditMethod, model: EditableModel) -> dict[str, Tensor]:
    """Return second moments of which every other direction is hardly used, as in a real model."""
    found = {}
    for layer in editor.spec.layers:
        width = model.input_width(layer)
        generator = torch.Generator().manual_seed(layer)
        drawn = torch.randn(width, width, dtype=torch.float64, generator=generator)
        basis = torch.linalg.qr(drawn).Q
        sizes = torch.where(torch.arange(width) % 2 == 0, 1.0, 1e-3).double()
        found[model.module_name(layer)] = basis * sizes @ basis.T
    return found


def untrained(name: str, model: EditableModel, layers: Sequence[int], folder: Path) -> Path:
    """Write a hyper-network that passes on what it reads."""
    shapes = {module: model.shape_of(module) for module in edited_modules(name, model, layers)}
    network = NETWORKS[name](shapes, rank=4)
    for module in shapes:
        network.set_unit(module, 0.1)
    card = {
        "editor": name,
        "fingerprint": model.fingerprint,
        "layers": list(layers),
        "tokens": "answer",
        "split": {"salt": ""},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_network(folder, network, card, [])
    return folder

"""What MEND and MALMEN have in common as editors: a trained network, found and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fleke_flwr.editors.base import EditMethod
from fleke_flwr.editors.hyper.modules import edited_modules
from fleke_flwr.editors.hyper.readings import answered, joined, read_tokens
from fleke_flwr.editors.hyper.storage import StoredNetwork, load_network, training_command
from fleke_flwr.errors import ConfigError
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress
from fleke_flwr.types import EditRequest
from fleke_flwr.values import Scalar

_PHASE = "tokens"


class HyperMethod(EditMethod):
    """An editor whose edits a trained network makes.

    Option ``network`` is its directory; ``network-hash``, if given, is what the network must hash
    to, so that clients with another one are refused.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, Scalar]] = {"network": "", "network-hash": ""}
    measured: ClassVar[bool] = False
    name: ClassVar[str]

    def check(self, model: EditableModel) -> None:
        """Refuse a network that is missing, damaged, another one, or another model's."""
        self.stored(model)

    def modules(self, model: EditableModel) -> tuple[str, ...]:
        """Return the modules that the network edits in the recipe's layers."""
        return edited_modules(self.name, model, self.spec.layers)

    def stored(self, model: EditableModel) -> StoredNetwork:
        """Return the network; it is read once per process.

        Raises
        ------
        ConfigError
            If none is named, or it is another editor's, model's, client's, or for other layers.
        DataError
            If its files are missing or damaged.
        """
        place = self.text("network")
        if not place:
            raise ConfigError(
                f"editor {self.name} needs a trained network; make one: "
                f"{training_command(self.name, model.name)}"
            )
        found = load_network(Path(place).expanduser(), self.name, model)
        wanted = self.text("network-hash")
        if wanted and found.content_hash != wanted:
            raise ConfigError(
                f"{place}: network {found.content_hash}, but the run uses {wanted}; copy the run's "
                "network here, or name its directory as network-path in the node's configuration"
            )
        if tuple(found.network.shapes) != self.modules(model):
            layers = ",".join(str(layer) for layer in found.card["layers"])
            raise ConfigError(
                f"{place}: a network for layers {layers}, but edit.layers is "
                f"{','.join(map(str, self.spec.layers))}; set edit.layers={layers}, or train one: "
                f"{training_command(self.name, model.name)}"
            )
        return found

    def rows(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return keys and gradients of all requests' tokens by module, in float64."""
        stored = self.stored(model)
        texts = [answered(model, request.text, request.target) for request in requests]
        progress.start(_PHASE, len(texts))
        found = read_tokens(
            model,
            tuple(stored.network.shapes),
            texts,
            str(stored.card["tokens"]),
            self.spec.batch_tokens,
        )
        progress.advance(_PHASE, len(texts))
        rows = {}
        for module, (d_out, d_in) in stored.network.shapes.items():
            empty = {module: (torch.empty(0, d_in), torch.empty(0, d_out))}
            keys, gradients = joined(found or [empty], module)
            rows[module] = keys.cpu().double(), gradients.cpu().double()
        return rows

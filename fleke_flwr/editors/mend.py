"""MEND: a hyper-network turns the gradient of each request into a better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fleke_flwr.editors.base import Moments, UpdateEditor
from fleke_flwr.editors.hyper.method import HyperMethod
from fleke_flwr.editors.hyper.network import MendNetwork
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.types import EditRequest, LayerUpdate

_SILENT = Silent()


class Mend(HyperMethod, UpdateEditor):
    """MEND (Mitchell et al. 2022, arXiv 2110.11309): ``W + alpha_l sum_t g~_t k~_t^T``.

    Edits all matrices of the MLPs of the edited layers. ``alpha_l`` is learnt, sign included, and
    begins as a step of descent. The gradients of several requests are added, each of the mean loss
    over its own answer, so the update of a batch is the sum of those of its requests; MEND's code
    divides by the batch.
    """

    name = "mend"

    def updates(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        priors: Mapping[str, Prior],
        progress: Progress = _SILENT,
    ) -> dict[str, LayerUpdate]:
        """Return the change of every edited module, as a product over tokens."""
        network = self.stored(model).network
        assert isinstance(network, MendNetwork)  # load_network checked the editor
        found = {}
        for module, (keys, gradients) in self.rows(model, requests, progress).items():
            with torch.no_grad():
                left, right = network.factors(module, keys, gradients)
            found[module] = LayerUpdate(left, right).compact()
        return found

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        """Return nothing: MEND knows of no prior."""
        return {}

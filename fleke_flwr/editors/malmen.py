"""MALMEN: a hyper-network says what every token wants, and a ridge regression grants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fleke_flwr.editors.base import Moments, StatisticsEditor
from fleke_flwr.editors.hyper.method import HyperMethod
from fleke_flwr.editors.hyper.network import MalmenNetwork
from fleke_flwr.linalg import Prior, compress
from fleke_flwr.models import EditableModel
from fleke_flwr.prior import ScaledIdentity
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.types import EditRequest, LayerStatistics

_SILENT = Silent()


class Malmen(HyperMethod, StatisticsEditor):
    """MALMEN (Tan et al. 2024, arXiv 2311.04661) in the kernel's language.

    With keys ``K (d_in, tokens)``, wanted output changes ``D (d_out, tokens)`` and the prior
    ``C = kappa_l I`` its update ``D K^T (K K^T + kappa_l I)^-1`` is the kernel's, so that
    CollabEdit's merge equals the pooled edit exactly.

    Departs from the released code where that would make a token's row depend on other requests:
    the loss of a request is the mean over its own answer and is not divided by the batch, and
    the normaliser is frozen. A batch of any size gives the same rows (the released code pairs
    keys and gradients of different rows when the batch size does not divide the edits). Rows are
    transformed in float64.
    """

    name = "malmen"

    def statistics(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress = _SILENT
    ) -> dict[str, LayerStatistics]:
        """Return the factors of ``(K K^T, D K^T)`` by module; no requests are legal."""
        network = self._network(model)
        found = {}
        for module, (keys, gradients) in self.rows(model, requests, progress).items():
            with torch.no_grad():
                desired = network.desired(module, keys, gradients)
            found[module] = compress(keys.T, desired.T, len(requests))
        return found

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        """Return ``kappa_l I`` by module; no covariance is asked for."""
        network = self._network(model)
        return {
            module: Prior.of([ScaledIdentity(d_in, network.kappa(module))])
            for module, (_, d_in) in network.shapes.items()
        }

    def _network(self, model: EditableModel) -> MalmenNetwork:
        network = self.stored(model).network
        assert isinstance(network, MalmenNetwork)  # load_network checked the editor
        return network

    @property
    def memory_weight(self) -> float:
        """Past keys count as they are: the network has learnt the ridge constant for them."""
        return 1.0

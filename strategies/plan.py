"""What a strategy needs to know about the edit, whatever it does with the replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from fleke_flwr.linalg import Prior
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import EditSpec


@dataclass(frozen=True)
class Plan:
    """The edit that all clients work on together.

    Parameters
    ----------
    spec : EditSpec
        The recipe all clients follow.
    modules : tuple[str, ...]
        Names of the edited projections, in layer order.
    priors : Mapping[str, Prior]
        ``C`` by module, on the server.
    base : str
        Fingerprint of the base model.
    d_out : int
        Output width of the edited projections.
    encoding, dtype : str
        How contributions travel.
    state_dtype : torch.dtype
        Precision in which the shared state travels and is kept.
    clients, needed_clients : int
        How many nodes take part, and how many good replies every exchange needs.
    rounds, edits : int
        Rounds the records are spread over, and their total (0 for all).
    progress : Progress
        Is told how far the run has come.
    """

    spec: EditSpec
    modules: tuple[str, ...]
    priors: Mapping[str, Prior]
    base: str
    d_out: int
    encoding: str = "factors"
    dtype: str = "auto"
    state_dtype: torch.dtype = torch.float32
    clients: int = 2
    needed_clients: int = 2
    rounds: int = 1
    edits: int = 0
    progress: Progress = field(default_factory=Silent)

    @property
    def widths(self) -> dict[str, int]:
        """Input width by module."""
        return {module: self.priors[module].d_in for module in self.modules}

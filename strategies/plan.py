"""What a strategy needs to know about the edit, whatever it does with the replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fleke_flwr.config import ConflictConfig, OverlapConfig
from fleke_flwr.linalg import Prior
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.strategies.bounds import Bounds
from fleke_flwr.values import Scalar

if TYPE_CHECKING:
    from fleke_flwr.fusion import Fusion


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
        ``C`` by module, on the server; empty where the editor gives updates alone.
    base : str
        Fingerprint of the base model.
    d_out : int
        Output width of the edited projections.
    shapes : Mapping[str, tuple[int, int]]
        ``(d_out, d_in)`` of the edited modules; where it is empty, all are ``d_out`` wide and as
        long as their priors.
    adds_up : bool
        Whether the editor gives statistics, which add up over clients, or updates alone.
    encoding, dtype : str
        How contributions travel.
    state_dtype : torch.dtype
        Precision in which the shared state travels and is kept.
    clients, needed_clients : int
        How many nodes take part, and how many good replies every exchange needs.
    join_timeout : float
        Seconds that the first round waits for clients, if no nodes are given.
    rounds : int
        Rounds the records are spread over.
    memory : str
        What later rounds know of earlier ones; see ``fleke_flwr.strategies.memory``.
    beta0, beta1 : float
        Weights of the covariance and of past keys where ``memory`` is ``dynamic``.
    sweeps : int
        How often a round goes over its requests.
    bounds : Bounds or None
        How much one client may do; without any, contributions are only checked for their form.
    conflict : ConflictConfig
        How contradicting edits are settled.
    overlap : OverlapConfig
        Which edits count as known already.
    fusion : Fusion or None
        What is done to updates that follow one another; they are added without any.
    evaluate_every : int
        Rounds between measurements; 0 for one after the last round.
    settings : Mapping[str, Scalar]
        Config keys in which this variant differs from the run's configuration.
    progress : Progress
        Is told how far the run has come.
    """

    spec: EditSpec
    modules: tuple[str, ...]
    priors: Mapping[str, Prior]
    base: str
    d_out: int
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    adds_up: bool = True
    encoding: str = "factors"
    dtype: str = "auto"
    state_dtype: torch.dtype = torch.float32
    clients: int = 2
    needed_clients: int = 2
    join_timeout: float = 300.0
    rounds: int = 1
    memory: str = "none"
    beta0: float = 1.0
    beta1: float = 0.0
    sweeps: int = 1
    bounds: Bounds | None = None
    conflict: ConflictConfig = field(default_factory=ConflictConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)
    fusion: Fusion | None = None
    evaluate_every: int = 1
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    progress: Progress = field(default_factory=Silent)

    @property
    def widths(self) -> dict[str, int]:
        """Input width by module."""
        if self.shapes:
            return {module: self.shapes[module][1] for module in self.modules}
        return {module: self.priors[module].d_in for module in self.modules}

    @property
    def heights(self) -> dict[str, int]:
        """Output width by module."""
        return {module: self.shapes.get(module, (self.d_out, 0))[0] for module in self.modules}

    @property
    def watches_overlap(self) -> bool:
        """Whether clients say which of their edits the shared model knows already."""
        return self.overlap.threshold >= 0

    def measures(self, round_: int) -> bool:
        """Tell whether the model is measured after a round; after the last one it always is."""
        every = self.evaluate_every
        return round_ == self.rounds or bool(every and round_ % every == 0)

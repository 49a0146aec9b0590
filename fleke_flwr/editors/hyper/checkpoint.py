"""Where a training stands: kept in one file, so that it goes on with the same bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.editors.hyper.network import HyperNetwork
from fleke_flwr.errors import ConfigError, DataError

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Standing:
    """How far a training has come.

    Parameters
    ----------
    best : dict[str, Tensor]
        The network that validated best.
    step, best_step : int
        Steps done, and those behind ``best``.
    best_loss : float
        Its validation loss.
    waited : int
        Validations since then.
    seconds : float
        Wall time spent.
    curve : list[dict[str, Any]]
        Every validation with its step and the training loss before it.
    """

    best: dict[str, Tensor]
    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    waited: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)

    def note(self, training_loss: float, scores: Any, network: HyperNetwork) -> None:
        """Note a validation, and keep the network if it is the best so far."""
        self.waited += 1
        if scores.loss < self.best_loss:
            self.best = deepcopy(network.state_dict())
            self.best_loss, self.best_step, self.waited = scores.loss, self.step, 0
        self.curve.append(
            {"step": self.step, "training_loss": training_loss, "validation": asdict(scores)}
        )


def write_standing(
    directory: Path,
    identity: Mapping[str, Any],
    standing: Standing,
    parts: tuple[HyperNetwork, Optimizer],
) -> None:
    """Write a checkpoint that replaces the one before."""
    network, optimizer = parts
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in standing.best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in state.items()}
    noted = {name: value for name, value in vars(standing).items() if name != "best"}
    write_tensors(directory / CHECKPOINT, tensors, {"identity": identity, "standing": noted})


def read_standing(
    directory: Path, identity: Mapping[str, Any], network: HyperNetwork, optimizer: Optimizer
) -> Standing:
    """Put a checkpoint's tensors into network and optimiser.

    Raises
    ------
    DataError
        If there is no checkpoint, or it is damaged.
    ConfigError
        If it is that of another training.
    """
    path = directory / CHECKPOINT
    if not path.is_file():
        raise DataError(f"{path}: no such file; start the training without --resume")
    tensors, metadata = read_tensors(path)
    found = metadata.get("identity", {})
    other = [name for name, value in identity.items() if found.get(name) != value]
    if other:
        raise ConfigError(
            f"{path}: of a training with other {', '.join(other)}; resume with the same settings, "
            "or start anew in another directory"
        )
    network.load_state_dict(_under("network/", tensors))
    state = optimizer.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer/", tensors).items():
        number, _, part = name.partition("/")
        moments.setdefault(int(number), {})[part] = value
    optimizer.load_state_dict({**state, "state": moments})
    return Standing(best=_under("best/", tensors), **metadata["standing"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }

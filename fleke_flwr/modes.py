"""Ways through several edited layers: how many exchanges a round has, and what is solved together.

See the table "modes" in the documentation. ``joint`` is one ridge over all edited layers;
``anticipated`` takes the layers in turn in one message, with keys read where the earlier layers
are meant to bring the network; ``layer_sync`` goes layer after layer on the model that already
carries the merged earlier layers; ``frozen`` treats each layer by itself on the round's starting
model; ``local_sequential`` lets each client walk through the layers alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from fleke_flwr.errors import ConfigError
from fleke_flwr.suggest import unknown

MODES = ("joint", "anticipated", "layer_sync", "frozen", "local_sequential")
SPREADS = ("even", "paper")
# All edited projections share one set of statistics: their keys are stacked.
STACKED = ("joint", "anticipated")


def check_mode(mode: str) -> str:
    """Return the mode, or raise naming the nearest known one."""
    if mode not in MODES:
        raise ConfigError(unknown("mode", mode, MODES))
    return mode


def exchanges_per_round(mode: str, num_layers: int) -> int:
    """Return how many messages a client answers per round."""
    return num_layers if check_mode(mode) == "layer_sync" else 1


def exchange_groups(mode: str, modules: Sequence[str], exchange: int) -> list[tuple[str, ...]]:
    """Return the groups of modules solved in one exchange (counted from 0)."""
    if check_mode(mode) in STACKED:
        return [tuple(modules)]
    if mode == "layer_sync":
        return [(modules[exchange],)]
    return [(module,) for module in modules]

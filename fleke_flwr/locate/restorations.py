"""What can be restored in a corrupted run, one layer after the other.

Letters: ``l`` the layer that a score stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fleke_flwr.errors import ConfigError
from fleke_flwr.suggest import unknown

Part = Literal["mlp", "attention"]
PARTS: tuple[Part, ...] = ("mlp", "attention")
BLOCK, MLP, ATTENTION = "block", "mlp", "attention"
SEVERED_MLP, SEVERED_ATTENTION = "severed-mlp", "severed-attention"
KINDS = (BLOCK, MLP, ATTENTION, SEVERED_MLP, SEVERED_ATTENTION)
_RESTORED: dict[str, Part] = {MLP: "mlp", ATTENTION: "attention"}
_SEVERED: dict[str, Part] = {SEVERED_MLP: "mlp", SEVERED_ATTENTION: "attention"}
_MOST = 10
# ROME restores 10 of GPT-2 XL's 48 layers at a time.
_SHARE = 5


@dataclass(frozen=True)
class Restoration:
    """One way to repair a corrupted run at one token.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    layer : int
        The layer ``l`` that its score stands for.
    start : int
        The first block that does not compute what it does in the corrupted run.
    state : bool
        Whether the token enters that block as in the clean run.
    part : str or None
        Whose outputs are replaced at the token, ``mlp`` or ``attention``; nobody's by default.
    layers : range
        In which layers.
    clean : bool
        Whether by those of the clean run, or else of the corrupted one.
    """

    kind: str
    layer: int
    start: int
    state: bool = False
    part: Part | None = None
    layers: range = range(0)
    clean: bool = False


def restorations(kind: str, num_layers: int, window: int) -> list[Restoration]:
    """Return what is restored for every layer.

    ``block``: the state behind block ``l`` (ROME, section 2.1). ``mlp`` and ``attention``: the
    outputs of ``window`` of these parts around ``l``, from ``l - window // 2`` on, as far as there
    are layers (ROME, figure 1). ``severed-mlp`` and ``severed-attention``: the state behind block
    ``l``, while those parts of all later layers put out at the token what they do in the corrupted
    run (MEMIT, section 4.1, figure 3).

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    num_layers : int
        Blocks of the model.
    window : int
        At least 1; of no account for ``block`` and the severed ones.
    """
    if kind in _RESTORED:
        before = window // 2
        ranges = [
            range(max(0, layer - before), min(num_layers, layer - before + window))
            for layer in range(num_layers)
        ]
        return [
            Restoration(kind, layer, layers.start, False, _RESTORED[kind], layers, True)
            for layer, layers in enumerate(ranges)
        ]
    return [
        Restoration(
            kind,
            layer,
            layer + 1,
            True,
            _SEVERED.get(kind),
            range(layer + 1, num_layers) if kind in _SEVERED else range(0),
        )
        for layer in range(num_layers)
    ]


def default_window(num_layers: int) -> int:
    """Return how many MLPs or attentions are restored together: a fifth of them, at most 10.

    ROME's window of 10 is a fifth of GPT-2 XL's 48 layers. In a model of 6 it would cover all
    layers from everywhere and tell none from another.
    """
    return min(_MOST, max(1, round(num_layers / _SHARE)))


def parts_of(kinds: Sequence[str]) -> list[Part]:
    """Return which parts of a block these kinds look into."""
    named = {(_RESTORED | _SEVERED).get(kind) for kind in kinds}
    return [part for part in PARTS if part in named]


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds that there are not.

    Raises
    ------
    ConfigError
        If there is none, one is unknown, or one stands twice.
    """
    if not kinds:
        raise ConfigError(f"no kind of trace; choose from {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(unknown("kind of trace", kind, KINDS))
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"kinds {','.join(kinds)}: one stands twice; name each once")

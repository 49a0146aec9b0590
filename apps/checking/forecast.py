"""How large messages will be, and how much memory and room in the model a run needs.

Letters: ``n`` edits of one client in one round, ``d`` width of the model, ``f`` input width of an
edited projection.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open

from fleke_flwr import wire
from fleke_flwr.apps.priors import cache_directory
from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS, Editor
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.modes import STACKED, exchanges_per_round
from fleke_flwr.spec import EditSpec
from fleke_flwr.strategies import STRATEGIES

# See "Limits" in README.md.
CAPACITY = 0.65
ENCODINGS = ("factors", "dense")


def sent_kind(config: RunConfig) -> str:
    """Return what clients send: statistics, updates or vectors; empty where nothing is foretold.

    That is the pooled bound, for which nobody sends anything, and editors without target vectors,
    whose contributions depend on more than the number of edits.

    Raises
    ------
    ConfigError
        If strategy or editor is unknown.
    """
    strategy = STRATEGIES.get(config.strategy_names[0])
    foretold = issubclass(EDITORS.get(config.editor_names[0]), Editor) and not strategy.pooled
    return strategy.reply if foretold else ""


@dataclass(frozen=True)
class Messages:
    """How many bytes a client sends, from widths alone.

    Parameters
    ----------
    config : RunConfig
        Mode, sweeps, memory and payload type.
    kind : str
        What clients send; see :func:`sent_kind`.
    widths : tuple[int, ...]
        ``f`` of every edited projection.
    d_out : int
        ``d``.
    is_float64 : bool
        Whether the model is, whose factors then travel in full.
    """

    config: RunConfig
    kind: str
    widths: tuple[int, ...]
    d_out: int
    is_float64: bool

    @property
    def letters(self) -> str:
        """What the letters of :attr:`formula` are here."""
        widths = ", ".join(map(str, self.widths))
        return f"n edits of a client in a round, d = {self.d_out}, f = {widths}"

    @property
    def formula(self) -> dict[str, str]:
        """How many numbers a client sends in one pass over the layers, by encoding."""
        if self.kind == wire.STATISTICS and self.config.mode in STACKED:
            return {"factors": "n (sum f + d)", "dense": "(sum f)^2 + d sum f"}
        if self.kind == wire.STATISTICS:
            return {"factors": "sum n (f + d)", "dense": "sum f^2 + d f"}
        if self.kind == wire.UPDATES:
            return dict.fromkeys(ENCODINGS, "sum n (f + d), or d f from n = f / 2 on")
        keys = "" if self.config.fededit.exchange == "tokens" else " + sum f"
        return dict.fromkeys(ENCODINGS, f"n (2 d{keys})") if self.kind else {}

    def by_round(self, edits: Sequence[int], encoding: str) -> list[int]:
        """Return the bytes of every round of a client with so many edits in each.

        Keys that are equal share a column, so that factors can be smaller than this.
        """
        replays = (
            self.kind == wire.STATISTICS
            and self.config.memory == "statistics"
            and exchanges_per_round(self.config.mode, len(self.widths)) > 1
        )
        sent = [sum(edits[: index + 1]) if replays else n for index, n in enumerate(edits)]
        times = 1 if self.kind not in (wire.STATISTICS, wire.UPDATES) else self.config.sweeps
        size = self._item_size(encoding) * times
        return [self._numbers(n, encoding) * size for n in sent]

    def _item_size(self, encoding: str) -> int:
        chosen = {"float32": 4, "float64": 8}.get(self.config.payload_dtype)
        is_sum = encoding == "dense" and self.kind in (wire.STATISTICS, wire.UPDATES)
        return chosen or (8 if self.is_float64 or is_sum else 4)

    def _numbers(self, n: int, encoding: str) -> int:
        stacked = sum(self.widths)
        groups = (stacked,) if self.config.mode in STACKED else self.widths
        if self.kind == wire.STATISTICS and encoding == "dense":
            return sum(f * f + self.d_out * f for f in groups)
        if self.kind == wire.STATISTICS:
            return sum(min(n, f) * (f + self.d_out) for f in groups)
        if self.kind == wire.UPDATES:
            # Solved over n columns, or over all of f where that is cheaper: then it is dense.
            solved = [stacked if self.config.mode == "joint" else f for f in self.widths]
            return sum(
                self.d_out * f if 2 * n >= wide else n * (f + self.d_out)
                for f, wide in zip(self.widths, solved, strict=True)
            )
        keys = 0 if self.config.fededit.exchange == "tokens" else stacked
        return n * (2 * self.d_out + keys) if self.kind else 0


def memory_needed(config: RunConfig, model: EditableModel, spec: EditSpec) -> dict[str, int]:
    """Return bytes of the model, of a covariance of each layer, and, roughly, of activations.

    A block keeps about ``8 d + 3 f`` numbers a token while target vectors are optimised, in every
    block from the last edited one on.
    """
    widths = [model.input_width(layer) for layer in spec.layers]
    parameters = list(model.model.parameters())
    tokens = model.batch_limit(config.edit.batch_tokens)
    blocks = model.num_layers - spec.layers[-1]
    return {
        "model": sum(weight.numel() * weight.element_size() for weight in parameters),
        "covariance_each": 8 * max(widths) ** 2,
        "covariance_all": 8 * sum(width**2 for width in widths),
        "activations": tokens
        * blocks
        * (8 * model.d_model + 3 * max(widths))
        * model.working_dtype.itemsize,
    }


def capacity(edits: int, widths: Sequence[int]) -> dict[str, Any]:
    """Compare the edits of a whole run with what the edited layers hold."""
    most = int(CAPACITY * min(widths))
    return {"edits": edits, "most": most, "inner_width": min(widths), "is_beyond": edits > most}


def covariances(config: RunConfig, model: EditableModel, spec: EditSpec) -> list[dict[str, Any]]:
    """Say for every edited layer whether a covariance of it lies in the cache.

    What is found there was made of as many tokens; it is used if ``covariance.corpus`` is the same
    text as it was.
    """
    folder = cache_directory(config).expanduser() / "covariance"
    known = {_about(path) for path in sorted(folder.glob("covariance-*.safetensors"))}
    tokens = config.covariance.tokens
    return [
        {
            "layer": layer,
            "module": model.module_name(layer),
            "width": model.input_width(layer),
            "tokens": tokens,
            "is_kept": (model.fingerprint, model.module_name(layer), tokens) in known,
        }
        for layer in spec.layers
    ]


def _about(path: Any) -> tuple[Any, Any, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("json", "{}"))
    except (SafetensorError, OSError, ValueError):
        return ("", "", 0)  # a run will say what is wrong with it
    return (about.get("fingerprint"), about.get("module"), about.get("tokens"))

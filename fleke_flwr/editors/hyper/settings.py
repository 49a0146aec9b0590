"""Settings of the training of a hyper-network, with the papers' numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fleke_flwr.editors.hyper.readings import TOKENS
from fleke_flwr.errors import ConfigError
from fleke_flwr.suggest import unknown
from fleke_flwr.values import Scalar, one_of, parse_value


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    The papers train for days on GPT-J with ``rank`` 1920, ``learning_rate`` 1e-5 (MALMEN) or 1e-6
    (MEND), ``edits`` 512 or 1. The defaults here are for models of a few million parameters, and
    minutes.

    Parameters
    ----------
    rank : int
        Of the blocks, at most their width.
    tokens : str
        Which tokens of a request count: ``answer`` or ``all``.
    edits, judged : int
        Requests edited at once in a step, and how many of them the loss asks about.
    fewest : int
        Where above 0, a step edits between this and ``edits`` requests, so that the network is of
        use for any such number.
    alternatives : float
        Share of the edits that take the target of another record of their relation.
    learning_rate, scalar_rate : float
        Adam's, of the blocks, and of the rates and ridge constants.
    edit_weight, locality_weight : float
        Of the two parts of the loss.
    clip : float
        Longest gradient.
    initial : float
        How much an untrained network changes an output, relative to its length.
    check_every, patience : int
        Steps between two validations, and validations without a better one before it stops.
    validated : int
        Most records that a validation edits.
    train_share, validation_share : float
        Of the subjects; all others are left for editing.
    seed : int
        Equal seeds give equal networks.
    """

    rank: int = 128
    tokens: str = "all"
    edits: int = 32
    judged: int = 16
    fewest: int = 0
    alternatives: float = 0.0
    learning_rate: float = 1e-3
    scalar_rate: float = 2e-2
    edit_weight: float = 1.0
    locality_weight: float = 1.0
    clip: float = 1.0
    initial: float = 0.1
    check_every: int = 25
    patience: int = 8
    validated: int = 64
    train_share: float = 0.4
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that nothing can be trained with."""
        one_of("tokens", self.tokens, TOKENS)
        for name in ("rank", "edits", "judged", "check_every", "patience", "validated"):
            self._need(name, getattr(self, name) >= 1, "1 and more")
        for name in ("learning_rate", "scalar_rate", "clip", "initial", "train_share"):
            self._need(name, getattr(self, name) > 0, "more than 0")
        for name in ("edit_weight", "locality_weight", "alternatives", "validation_share"):
            self._need(name, getattr(self, name) >= 0, "0 and more")
        self._need("fewest", 0 <= self.fewest <= self.edits, f"0 to edits = {self.edits}")
        self._need("alternatives", self.alternatives <= 1, "at most 1")
        shares = self.train_share + self.validation_share
        if shares > 1 or not self.validation_share:
            raise ConfigError(
                f"train-share = {self.train_share:g}, validation-share = "
                f"{self.validation_share:g}: both above 0, and at most 1 together"
            )

    def _need(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            key = name.replace("_", "-")
            raise ConfigError(f"{key} = {getattr(self, name)}: {wanted} is needed")

    def to_json(self) -> dict[str, Any]:
        """Return the values by name."""
        return asdict(self)

    def with_texts(self, texts: Mapping[str, str]) -> TrainingSettings:
        """Return settings with some values read from texts, names in kebab or snake case.

        Raises
        ------
        ConfigError
            For an unknown name, or a value that cannot be read.
        """
        known = {field.name.replace("_", "-"): getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Scalar] = {}
        for key, text in texts.items():
            name = key.replace("_", "-")
            if name not in known:
                raise ConfigError(unknown("setting of the training", name, known))
            chosen[name.replace("-", "_")] = parse_value(name, text, known[name])
        return replace(self, **chosen)  # type: ignore[arg-type]  # parsed by the field's type


DEFAULTS: Mapping[str, TrainingSettings] = {
    "malmen": TrainingSettings(fewest=1),
    "mend": TrainingSettings(edits=8, judged=8, validated=8, initial=0.02),
}

"""The configuration of a run: one schema for TOML files, the command line and Flower's run config.

Flower's run config is flat and knows only numbers, booleans and strings, so every key has a dotted
name, lists are comma-separated strings, and "unset" is ``-1`` or ``""``: then the model's own
setting (its ``editing.json`` or a preset) counts.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from fleke_flwr.errors import ConfigError
from fleke_flwr.modes import SPREADS, check_mode
from fleke_flwr.suggest import unknown
from fleke_flwr.values import Scalar, comma_list, flatten, one_of, parse_value, typed

PARTITIONS = (
    "iid",
    "contiguous",
    "round_robin",
    "relation",
    "one_relation",
    "dirichlet",
    "cluster",
    "natural",
)
MIX_MODES = ("move", "copy")
SLOT_ORDERS = ("seeded", "file", "lexicographic")
ZSRE_TARGETS = ("alt", "answers")
REEDIT_RULES = ("pooled", "own_keys", "paper")
EXCHANGES = ("vectors", "tokens")
SIMILARITIES = ("targets", "centred", "changes", "keys")
MEMORIES = ("none", "dynamic", "statistics")
OVERLAP_ACTIONS = ("skip", "send")
POLICIES = ("", "first-come", "latest")
FUSION_RULES = ("", "drop_rescale", "top_retain", "average", "wise_ft", "lookahead")
RIVAL_PLACES = ("same", "next", "own")
JUDGED = ("seen", "first")
UNSET = -1.0
# What may differ between the variants of one Flower run: not the model, and not where things lie.
SWEPT_SECTIONS = (
    "clients",
    "rounds",
    "seed",
    "mode",
    "memory",
    "sweeps",
    "encoding",
    "data",
    "edit",
    "fededit",
    "merge",
    "fusion",
    "overlap",
    "conflict",
)
TARGET_SETTINGS = (
    "ridge_weight",
    "learning_rate",
    "steps",
    "clamp",
    "weight_decay",
    "kl_weight",
    "stop_loss",
)


@dataclass(frozen=True)
class ModelConfig:
    """Which model is edited, and how it is loaded."""

    name: str = "embedded"
    revision: str = ""
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class DataConfig:
    """Which records are edited, and how they are spread over clients and rounds.

    ``edits`` limits the total number of records (0 takes all); see ``fleke_flwr.data.partition``
    for the partitions, ``fleke_flwr.data.slots`` for the rounds inside a client (``first`` is the
    number of records that round 1 takes) and ``fleke_flwr.data.rivals`` for ``rivals``, the share
    of records that somebody else contradicts.
    """

    path: str = "embedded"
    partition: str = "iid"
    edits: int = 0
    relations: str = ""
    mix: float = 0.0
    mix_mode: str = "move"
    concentration: float = 0.5
    balance: bool = True
    encoder: str = ""
    owner: str = "owner"
    slot_order: str = "seeded"
    first: int = 0
    rivals: float = 0.0
    rival_place: str = "same"
    zsre_target: str = "alt"
    split: str = "train"


@dataclass(frozen=True)
class EditConfig:
    """How the editor works; ``-1`` and ``""`` mean the model's own setting.

    ``options`` are ``name=value`` pairs for parameters that one editor alone has.
    """

    preset: str = ""
    layers: str = ""
    ridge_weight: float = UNSET
    spread: str = "even"
    learning_rate: float = UNSET
    steps: int = -1
    clamp: float = UNSET
    weight_decay: float = UNSET
    kl_weight: float = UNSET
    stop_loss: float = UNSET
    options: str = ""
    batch_tokens: int = 16384


@dataclass(frozen=True)
class ContextConfig:
    """How many sampled prefixes the keys and target vectors average over, and their length."""

    count: int = 5
    length: int = 10


@dataclass(frozen=True)
class CovarianceConfig:
    """The text and the number of tokens behind the covariance; ``""`` is the model's own text."""

    corpus: str = ""
    tokens: int = 100_000


@dataclass(frozen=True)
class MergeConfig:
    """Parameters of the merging rules; ``-1`` means the rule's own default.

    ``beta0`` and ``beta1`` weigh the covariance and the past edits' keys where ``memory`` is
    ``dynamic``; ``options`` are ``name=value`` pairs for other parameters of a strategy.
    """

    scale: float = UNSET
    density: float = UNSET
    beta0: float = 1.0
    beta1: float = UNSET
    options: str = ""


@dataclass(frozen=True)
class FusionConfig:
    """What is done to updates that follow one another; an empty ``rule`` adds them.

    ``drop_rate`` is that of ``drop_rescale``, ``keep`` the share of entries of ``top_retain``,
    ``weight`` that of ``wise_ft`` and ``lookahead``, ``every`` the updates between two looks of
    ``lookahead``.
    """

    rule: str = ""
    drop_rate: float = 0.8
    keep: float = 0.2
    weight: float = 0.5
    every: int = 5


@dataclass(frozen=True)
class FedEditConfig:
    """How clients of ``fededit`` use one another's memory vectors."""

    rule: str = "pooled"
    exchange: str = "vectors"
    similarity: str = "targets"
    alpha: float = 0.4
    quantile: float = UNSET
    noise: float = 0.0


@dataclass(frozen=True)
class OverlapConfig:
    """Which of its edits a client takes for known, and what it does with them.

    Known is an edit whose residual on the current shared model, relative to that on the base
    model, is below ``threshold``; ``-1`` does not look.
    """

    threshold: float = UNSET
    action: str = "skip"


@dataclass(frozen=True)
class ConflictConfig:
    """How edits that contradict each other are settled; an empty ``policy`` does not look.

    ``strength`` counts the requests that are added for every edit that wins.
    """

    policy: str = ""
    augmentation: str = "paraphrase"
    strength: int = 3
    templates: str = ""


@dataclass(frozen=True)
class BoundConfig:
    """How much a single client may do to the shared model; 0 means no bound.

    Both are in whitened units, where ordinary text has unit size: ``change`` is the change of a
    layer's output on ordinary text that one edit makes alone, relative to that output (``n`` edits
    may make the root of ``n`` times as much); ``leverage`` is the squared length of a client's
    keys, relative to the average token's.
    """

    change: float = 0.15
    leverage: float = 100.0


@dataclass(frozen=True)
class SweepConfig:
    """One setting that takes several values in turn; both empty for a single run."""

    key: str = ""
    values: str = ""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and how often.

    ``records`` are all that have been edited (``seen``) or those of round 1 (``first``); ``every``
    counts rounds, 0 measures after the last one only; ``generate_every`` counts records whose open
    prompts are continued, 0 generates nothing. ``text_tokens`` of ``text`` say how much the model
    has changed on what nobody edited; ``failures`` is how many failed edits a client writes down
    for itself.
    """

    records: str = "seen"
    every: int = 1
    generate_every: int = 0
    idf: str = ""
    text: str = ""
    text_tokens: int = 4096
    failures: int = 20
    batch_tokens: int = 16384


@dataclass(frozen=True)
class RunConfig:
    """Everything a run needs; every field is documented in ``configs/README.md``."""

    name: str = "run"
    strategy: str = "collabedit"
    strategies: str = ""
    editor: str = "memit"
    editors: str = ""
    mode: str = "anticipated"
    memory: str = "none"
    sweeps: int = 1
    encoding: str = "factors"
    payload_dtype: str = "auto"
    rounds: int = 1
    global_rounds: int = 0
    clients: int = 8
    min_clients: int = 0
    seed: int = 0
    timeout: float = 3600.0
    join_timeout: float = 300.0
    resume: bool = False
    trackers: str = ""
    output_dir: str = ""
    cache_dir: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    edit: EditConfig = field(default_factory=EditConfig)
    contexts: ContextConfig = field(default_factory=ContextConfig)
    covariance: CovarianceConfig = field(default_factory=CovarianceConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    fededit: FedEditConfig = field(default_factory=FedEditConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)
    conflict: ConflictConfig = field(default_factory=ConflictConfig)
    bound: BoundConfig = field(default_factory=BoundConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        check_mode(self.mode)
        one_of("memory", self.memory, MEMORIES)
        one_of("encoding", self.encoding, ("factors", "dense"))
        one_of("payload-dtype", self.payload_dtype, ("auto", "float32", "float64"))
        one_of("edit.spread", self.edit.spread, SPREADS)
        one_of("data.partition", self.data.partition, PARTITIONS)
        one_of("data.mix-mode", self.data.mix_mode, MIX_MODES)
        one_of("data.slot-order", self.data.slot_order, SLOT_ORDERS)
        one_of("data.rival-place", self.data.rival_place, RIVAL_PLACES)
        one_of("overlap.action", self.overlap.action, OVERLAP_ACTIONS)
        one_of("conflict.policy", self.conflict.policy, POLICIES)
        one_of("fusion.rule", self.fusion.rule, FUSION_RULES)
        one_of("evaluation.records", self.evaluation.records, JUDGED)
        one_of("data.zsre-target", self.data.zsre_target, ZSRE_TARGETS)
        one_of("fededit.rule", self.fededit.rule, REEDIT_RULES)
        one_of("fededit.exchange", self.fededit.exchange, EXCHANGES)
        one_of("fededit.similarity", self.fededit.similarity, SIMILARITIES)
        one_of("model.dtype", self.model.dtype, ("float32", "float64", "float16", "bfloat16"))
        _check_numbers({k: v for k, v in self.to_flat().items() if not isinstance(v, str)})
        for key, seconds in (("timeout", self.timeout), ("join-timeout", self.join_timeout)):
            if seconds <= 0:
                raise ConfigError(f"{key} = {seconds}: more than 0 seconds are needed")
        if not 0 <= self.min_clients <= self.clients:
            raise ConfigError(
                f"min-clients = {self.min_clients}: need a number from 0 (all) "
                f"to clients = {self.clients}"
            )
        self._check_shares()
        _ = self.variants

    def _check_shares(self) -> None:
        if not 0 <= self.data.mix < 1:
            raise ConfigError(f"data.mix = {self.data.mix}: need a share from 0 to below 1")
        if not 0 <= self.data.rivals <= 1:
            raise ConfigError(f"data.rivals = {self.data.rivals}: need a share from 0 to 1")
        if not 0 <= self.fusion.drop_rate < 1:
            raise ConfigError(
                f"fusion.drop-rate = {self.fusion.drop_rate}: need a share from 0 to below 1"
            )
        for key, share in (("keep", self.fusion.keep), ("weight", self.fusion.weight)):
            if not 0 < share <= 1:
                raise ConfigError(f"fusion.{key} = {share}: need a share above 0, up to 1")
        if self.data.concentration <= 0:
            raise ConfigError(
                f"data.concentration = {self.data.concentration}: need a number above 0"
            )
        quantile = self.fededit.quantile
        if quantile != UNSET and not 0 <= quantile <= 1:
            raise ConfigError(
                f"fededit.quantile = {quantile}: need a number from 0 to 1, or -1 for alpha"
            )

    @property
    def needed_clients(self) -> int:
        """How many good replies every exchange needs."""
        return self.min_clients or self.clients

    @property
    def strategy_names(self) -> list[str]:
        """The strategies of a comparison, or the one of a run."""
        return comma_list(self.strategies) or [self.strategy]

    @property
    def editor_names(self) -> list[str]:
        """The editors of a comparison, or the one of a run."""
        return comma_list(self.editors) or [self.editor]

    @property
    def is_comparison(self) -> bool:
        """Whether several variants run on the same clients and records."""
        return bool(self.strategies or self.editors or self.sweep.key)

    @property
    def variants(self) -> list[tuple[Scalar | None, RunConfig]]:
        """The values of the swept setting with the configuration of each; one ``None`` without.

        Raises
        ------
        ConfigError
            If only one half of a sweep is given, the setting cannot be swept, or a value is wrong.
        """
        key, values = self.sweep.key, comma_list(self.sweep.values)
        if not key and not values:
            return [(None, self)]
        if not key or not values:
            raise ConfigError("a sweep needs both sweep.key and sweep.values")
        flat = self.to_flat()
        if key not in flat:
            raise ConfigError(f"sweep.key: {unknown('config key', key, flat)}")
        if key.split(".")[0] not in SWEPT_SECTIONS:
            raise ConfigError(
                f"sweep.key = {key!r} cannot change within a run; "
                f"swept can be {', '.join(SWEPT_SECTIONS)}"
            )
        flat.update({"sweep.key": "", "sweep.values": ""})
        found: list[tuple[Scalar | None, RunConfig]] = []
        for text in values:
            value = parse_value(key, text, flat[key])
            found.append((value, RunConfig.from_flat({**flat, key: value})))
        return found

    def to_flat(self) -> dict[str, Scalar]:
        """Return dotted keys in kebab case, as Flower's run config holds them."""
        return flatten(asdict(self))

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> RunConfig:
        """Build a configuration from dotted keys.

        Raises
        ------
        ConfigError
            For an unknown key (the nearest known one is named) or a value of the wrong type.
        """
        defaults = flatten(_defaults(cls))
        nested: dict[str, Any] = {}
        for key, value in flat.items():
            if any(known.startswith(f"{key}.") for known in defaults):
                raise ConfigError(
                    f"{key} = {value!r}: {key} is a section; write [{key}] above keys"
                )
            if key not in defaults:
                raise ConfigError(unknown("config key", key, defaults))
            section, _, leaf = key.replace("-", "_").rpartition(".")
            target = nested.setdefault(section, {}) if section else nested
            target[leaf] = typed(key, value, defaults[key])
        return _build(cls, nested)


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read an experiment file and apply ``key=value`` overrides.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or a key or value is wrong.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"config file {path}: no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"config file {path}: is a directory; name a TOML file") from error
    except OSError as error:
        raise ConfigError(f"config file {path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path}: not valid TOML ({error})") from error
    flat: dict[str, Any] = flatten(content)
    flat.update(parse_overrides(overrides))
    flat.setdefault("name", path.stem)
    try:
        return RunConfig.from_flat(flat)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs as typed on a command line.

    Raises
    ------
    ConfigError
        If a pair has no ``=`` or the key is unknown.
    """
    defaults = flatten(_defaults(RunConfig))
    parsed: dict[str, Any] = {}
    for pair in overrides:
        key, equals, text = pair.partition("=")
        key = {"model": "model.name", "data": "data.path"}.get(key, key)
        if not equals:
            raise ConfigError(f"override {pair!r}: write key=value, for example rounds=2")
        if key not in defaults:
            raise ConfigError(unknown("config key", key, defaults))
        parsed[key] = parse_value(key, text, defaults[key])
    return parsed


_LEAST = {
    "rounds": 1,
    "global-rounds": 0,
    "clients": 1,
    "seed": 0,
    "data.edits": 0,
    "data.first": 0,
    "sweeps": 1,
    "fusion.every": 1,
    "conflict.strength": 1,
    "fededit.noise": 0,
    "evaluation.every": 0,
    "evaluation.generate-every": 0,
    "evaluation.text-tokens": 0,
    "evaluation.failures": 0,
    "bound.change": 0,
    "bound.leverage": 0,
    "edit.batch-tokens": 1,
    "contexts.count": 0,
    "contexts.length": 1,
    "covariance.tokens": 1,
    "evaluation.batch-tokens": 1,
}


def _check_numbers(flat: Mapping[str, float]) -> None:
    for key, least in _LEAST.items():
        if flat[key] < least:
            raise ConfigError(f"{key} = {flat[key]}: at least {least} is needed")
    unset = {f"edit.{name.replace('_', '-')}": "the model's own" for name in TARGET_SETTINGS}
    unset |= {"merge.beta1": "edit.ridge-weight", "overlap.threshold": "does not look"}
    for key, meaning in unset.items():
        if flat[key] < 0 and flat[key] != UNSET:
            raise ConfigError(f"{key} = {flat[key]}: need -1 ({meaning}) or 0 and more")
    if flat["merge.beta0"] <= 0:
        raise ConfigError(f"merge.beta0 = {flat['merge.beta0']}: need a number above 0")


def _defaults(cls: type[Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in fields(cls):
        if item.default is not MISSING:
            values[item.name] = item.default
        elif item.default_factory is not MISSING:
            made = item.default_factory()
            values[item.name] = asdict(made)
    return values


def _build(cls: type[RunConfig], nested: Mapping[str, Any]) -> RunConfig:
    hints = get_type_hints(cls)
    values = {
        name: hints[name](**value) if isinstance(value, Mapping) else value
        for name, value in nested.items()
    }
    return cls(**values)

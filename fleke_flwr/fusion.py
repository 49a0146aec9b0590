"""Fusion: what is done to updates that follow one another, in place of adding them.

Knowledge attenuates over sequential edits: every update also moves what earlier ones have written.
AdaPLE (drop-and-rescale) and the rules it compares itself with act on single entries of an update,
or on the sequence. With ``W_t`` the model after round ``t`` as everybody sees it, ``theta_t`` the
model after the round's own merge, and ``Delta_t = theta_t - W_{t-1}``:

``drop_rescale``: ``W_t = W_{t-1} + M * Delta_t / (1 - p)``, ``M`` of zeros and ones.
``top_retain``: ``W_t = W_{t-1} + M * Delta_t``, ``M`` the largest entries.
``average``: ``W_t = W_0 + (1/t) sum_{s<=t} Delta_s``.
``wise_ft``: ``W_t = W_0 + a sum_{s<=t} Delta_s``.
``lookahead``: ``W_t = theta_t``; every ``k`` rounds ``W_t = phi <- phi + a (theta_t - phi)``.

The first two act on each client's own update where clients send updates. An update that a rule has
changed is dense: a masked product has no factors of low rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fleke_flwr.config import FusionConfig, RunConfig
from fleke_flwr.errors import ConfigError
from fleke_flwr.types import LayerUpdate

# In a seed, the place of a client where a round's merged change is masked.
MERGED = -1
_ELEMENTWISE = ("drop_rescale", "top_retain")


def drop_rescale(update: LayerUpdate, rate: float, seed: int) -> LayerUpdate:
    """Drop entries at random and scale the others so that the expectation stays.

    Source: DARE (Yu et al. 2024), as used by AdaPLE on every sequential update. An entry's variance
    is ``p / (1 - p) Delta_ij^2``, so on a key ``k`` the output is off by
    ``p / (1 - p) sum_ij Delta_ij^2 k_j^2`` in the mean square.

    Parameters
    ----------
    update : LayerUpdate
        ``Delta (d_out, d_in)``.
    rate : float
        ``p``, the probability of an entry to be dropped; 0 up to below 1.
    seed : int
        Of the mask; the same one gives the same mask on any machine.

    Returns
    -------
    LayerUpdate
        Dense, in float64; with a rate of 0 the update itself.
    """
    if rate == 0:
        return update
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(update.shape, dtype=torch.float64, generator=generator)
    change = _dense(update)
    return LayerUpdate(change * (drawn >= rate).to(change.device) / (1 - rate))


def top_retain(update: LayerUpdate, keep: float) -> LayerUpdate:
    """Keep the share of entries that is largest in magnitude.

    Source: the rule that AdaPLE calls top-retain; the trimming of TIES-Merging (Yadav et al. 2023).
    Of equal entries those that come first, row by row, are kept, so that the number is exact.

    Parameters
    ----------
    update : LayerUpdate
        ``Delta (d_out, d_in)``.
    keep : float
        Share of entries that stay, rounded to a whole number of entries, one at least.

    Returns
    -------
    LayerUpdate
        Dense, in float64; with a share of 1 the update itself.
    """
    if keep == 1:
        return update
    change = _dense(update)
    sizes = change.abs().flatten()
    kept = max(1, round(keep * sizes.numel()))
    least = sizes.kthvalue(sizes.numel() - kept + 1).values
    chosen = sizes > least
    equal = (sizes == least).nonzero().flatten()
    chosen[equal[: kept - int(chosen.sum())]] = True
    return LayerUpdate(change * chosen.reshape(change.shape))


def mask_seed(seed: int, round_: int, client: int, module: str) -> int:
    """Return the seed of a mask from the run's seed and the mask's place: 64 bits of a SHA-256."""
    place = f"fusion {seed} {round_} {client} {module}"
    return int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big")


class Fusion:
    """A rule over a sequence of rounds, or of batches; without a rule, nothing changes at all.

    Parameters
    ----------
    config : FusionConfig
        The rule and its parameters.
    seed : int
        Of all masks.
    """

    def __init__(self, config: FusionConfig | None = None, seed: int = 0) -> None:
        self.config = config or FusionConfig()
        self.seed = seed
        # Lookahead's slow weights, relative to the base model; empty before the first look.
        self._slow: dict[str, Tensor] = {}

    @property
    def is_active(self) -> bool:
        """Whether any update is changed: a rule is set, and not with what leaves all as it is."""
        config = self.config
        neutral = {
            "": True,
            "drop_rescale": config.drop_rate == 0,
            "top_retain": config.keep == 1,
            "wise_ft": config.weight == 1,
            "lookahead": config.weight == 1,
        }
        return not neutral.get(config.rule, False)

    def anew(self) -> Fusion:
        """Return the same rule at the start of another sequence."""
        return Fusion(self.config, self.seed)

    def of_client(
        self, updates: Mapping[str, LayerUpdate], round_: int, client: int
    ) -> Mapping[str, LayerUpdate]:
        """Apply a rule for single entries to one client's own update, before it is merged.

        Source: DARE and TIES prune every task's update before they merge them.

        Parameters
        ----------
        updates : Mapping[str, LayerUpdate]
            By module, ``(d_out, d_in)``.
        round_, client : int
            The masks' place.

        Returns
        -------
        Mapping[str, LayerUpdate]
            In the precision of the updates.
        """
        if not self.is_active or self.config.rule not in _ELEMENTWISE:
            return updates
        return {
            module: self._masked(update, round_, client, module).to(update.left.dtype)
            for module, update in updates.items()
        }

    def of_round(
        self,
        before: Mapping[str, LayerUpdate],
        after: Mapping[str, LayerUpdate],
        round_: int,
        of_clients: bool,
    ) -> Mapping[str, LayerUpdate]:
        """Return what the model is after a round, which is what everybody starts from in the next.

        Because it is, ``Delta_t`` is counted from it, and the sums of ``average`` and ``wise_ft``
        need no memory: ``W_t - W_0 = ((t-1) (W_{t-1} - W_0) + Delta_t) / t``, and
        ``W_t = W_{t-1} + a Delta_t``. Departs from AdaPLE's comparison, whose text leaves open
        which model the next edit is made on, and from WiSE-FT (Wortsman et al. 2022), which
        interpolates once, after the training.

        Parameters
        ----------
        before, after : Mapping[str, LayerUpdate]
            Total changes relative to the base model by module, before the round and after its
            merge; what is missing is zero.
        round_ : int
            Number of the round, from 1.
        of_clients : bool
            Whether rules for single entries have acted on the clients' own updates already.

        Returns
        -------
        Mapping[str, LayerUpdate]
            Total changes, in the precision of ``after``.
        """
        config = self.config
        done = of_clients and config.rule in _ELEMENTWISE
        waits = config.rule == "lookahead" and round_ % config.every
        if not self.is_active or done or waits:
            return after
        fused = {}
        for module, update in after.items():
            new = _dense(update)
            old = _dense(before[module]) if module in before else torch.zeros_like(new)
            kept = self._fused(module, old, new, round_).to(update.left.dtype)
            if config.rule == "lookahead":
                self._slow[module] = kept
            fused[module] = LayerUpdate(kept)
        return fused

    def remembered(self) -> dict[str, Tensor]:
        """Return what the rule needs to go on: Lookahead's slow weights, by module."""
        return dict(self._slow)

    def remember(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`remembered` gave."""
        self._slow = dict(tensors)

    def _fused(self, module: str, old: Tensor, new: Tensor, round_: int) -> Tensor:
        """Return a total change ``(d_out, d_in)`` from those before and after the merge."""
        config, change = self.config, new - old
        if config.rule == "average":
            return ((round_ - 1) * old + change) / round_
        if config.rule == "wise_ft":
            return old + config.weight * change
        if config.rule == "lookahead":
            # Lookahead (Zhang et al. 2019), algorithm 1; it starts from the base model.
            slow = self._slow.get(module, torch.zeros_like(new)).to(new.dtype)
            return slow + config.weight * (new - slow)
        return old + self._masked(LayerUpdate(change), round_, MERGED, module).left

    def _masked(self, update: LayerUpdate, round_: int, client: int, module: str) -> LayerUpdate:
        if self.config.rule == "top_retain":
            return top_retain(update, self.config.keep)
        seed = mask_seed(self.seed, round_, client, module)
        return drop_rescale(update, self.config.drop_rate, seed)


def check_fusion(config: RunConfig, others: Sequence[str] = ()) -> None:
    """Refuse a rule where it would mean nothing.

    Parameters
    ----------
    config : RunConfig
        One variant of a run.
    others : Sequence[str]
        Names of its strategies that merge no updates into a shared model.

    Raises
    ------
    ConfigError
        Naming the settings that do not go together.
    """
    rule = config.fusion.rule
    if not rule:
        return
    if config.memory == "statistics":
        raise ConfigError(
            f"fusion.rule = {rule!r} changes what each round adds to the model, and memory = "
            "'statistics' solves every round again from the base model; set memory to none or "
            "dynamic, or leave fusion.rule unset"
        )
    if others:
        raise ConfigError(
            f"fusion.rule = {rule!r} acts on a shared model, and there is none in "
            f"{', '.join(others)}; leave fusion.rule unset, or use collabedit"
        )


def _dense(update: LayerUpdate) -> Tensor:
    return update.to(torch.float64).dense()

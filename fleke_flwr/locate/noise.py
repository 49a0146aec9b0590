"""The noise that corrupts a subject: its rule, its size, and its draws.

Letters: ``S`` corrupted copies, ``n`` subject tokens, ``d`` width of the embedding, ``N`` tokens
that a distribution is fitted to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.errors import ConfigError
from fleke_flwr.locate.facts import Prompt
from fleke_flwr.models.loading import EditableModel

_RULE = re.compile(r"([sutm])(\d+(?:\.\d*)?|\.\d+)?")
_LEAST_DEGREES = 3
_RULES = (
    "write s3 (3 times the spread of the subjects' embeddings), u1.0 (uniform between -1 and 1), "
    "m (a Gaussian fitted to the prompts' embeddings) or t5 (Student's t of 5 degrees, so fitted)"
)


@dataclass(frozen=True)
class Noise:
    """What is put on the embeddings of a subject's tokens.

    Parameters
    ----------
    rule : str
        As the user wrote it.
    scale : float
        Factor of a standard normal or of a uniform draw between -1 and 1; 1 where it is fitted.
    degrees : int
        Degrees of freedom of Student's t; 0 for none.
    mean, root : Tensor or None
        ``(d,)`` and ``(d, d)`` of a fitted distribution with covariance ``root root^T``.
    """

    rule: str
    scale: float
    degrees: int = 0
    mean: Tensor | None = None
    root: Tensor | None = None

    def draw(self, seed: int, prompt: Prompt, samples: int, width: int) -> Tensor:
        """Return noise ``(S, n, d)`` in float64, the same for equal seeds and equal prompts.

        ROME and MEMIT start numpy's ``RandomState(1)`` anew for every run, so that all tokens and
        layers of a fact, and all facts, see one noise. Here the generator is torch's, on the CPU,
        and it starts from seed *and* prompt: a fact's noise still is one for all tokens and layers,
        but the facts' are independent, as the intervals of their mean assume.
        """
        generator = torch.Generator().manual_seed(_start(seed, prompt))
        shape = (samples, prompt.stop - prompt.start, width)
        if self.rule.startswith("u"):
            drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
            return self.scale * (2 * drawn - 1)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.mean is None or self.root is None:
            return self.scale * drawn
        fitted = self.mean + drawn @ self.root.T
        if not self.degrees:
            return fitted
        normals = torch.randn((*shape[:2], self.degrees), generator=generator, dtype=torch.float64)
        # Divided so that the covariance stays the fitted one.
        chi_squared = normals.square().sum(dim=2, keepdim=True)
        return fitted * ((self.degrees - 2) / chi_squared).sqrt()


def check_rule(rule: str) -> None:
    """Refuse a rule that there is not.

    Raises
    ------
    ConfigError
        Saying which rules there are.
    """
    _parsed(rule)


def fitted_noise(model: EditableModel, rule: str, prompts: Sequence[Prompt]) -> Noise:
    """Return the noise of a rule for a model and a data set.

    ``s<x>``: normal, ``x`` times the standard deviation of all numbers in the embeddings of all
    subject tokens (ROME's default, ``x = 3``). ``u<x>``: uniform between ``-x`` and ``x``. ``m``:
    Gaussian of the mean and covariance of embeddings. ``t<df>``: Student's t of ``df`` degrees
    with that covariance.

    Departs from the released code in taking the subject's tokens as they stand in the prompt, where
    that tokenises the subject alone (in front of a text most tokenizers split a name otherwise),
    and in fitting ``m`` and ``t`` to the tokens of the prompts at hand instead of Wikipedia's,
    which would have to be downloaded.

    Parameters
    ----------
    prompts : Sequence[Prompt]
        Of the whole data set, one at least.

    Raises
    ------
    ConfigError
        If there is no such rule.
    """
    kind, amount = _parsed(rule)
    if kind == "u":
        return Noise(rule, amount)
    if kind == "s":
        spread = _embedded(model, [prompt.ids[prompt.start : prompt.stop] for prompt in prompts])
        return Noise(rule, amount * float(spread.std()))
    every = _embedded(model, [prompt.ids for prompt in prompts])
    values, vectors = torch.linalg.eigh(torch.cov(every.T, correction=0))
    root = vectors * values.clamp(min=0).sqrt()
    return Noise(rule, 1.0, int(amount), every.mean(dim=0), root)


def embedding_width(model: EditableModel) -> int:
    """Return the width ``d`` of the token embedding, which may not be the residual stream's."""
    weight = model.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)  # an embedding has one
    return int(weight.shape[1])


def _parsed(rule: str) -> tuple[str, float]:
    found = _RULE.fullmatch(rule)
    if not found:
        raise ConfigError(f"noise {rule!r}: no such rule; {_RULES}")
    kind, number = found[1], found[2]
    amount = float(number or 0)
    if kind == "m":
        sound = number is None
    elif kind == "t":
        sound = amount.is_integer() and amount >= _LEAST_DEGREES
    else:
        sound = amount > 0
    if not sound:
        raise ConfigError(
            f"noise {rule!r}: s and u need a number above 0, t a whole number of at least "
            f"{_LEAST_DEGREES}, m none; {_RULES}"
        )
    return kind, amount


@torch.no_grad()
def _embedded(model: EditableModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the token embeddings ``(N, d)`` in float64, before anything of their place."""
    ids = torch.tensor([token for row in rows for token in row], device=model.device)
    embedded: Tensor = model.model.get_input_embeddings()(ids)
    return embedded.double().cpu()


def _start(seed: int, prompt: Prompt) -> int:
    digest = hashlib.sha256(f"{seed} {prompt.ids} {prompt.start} {prompt.stop}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

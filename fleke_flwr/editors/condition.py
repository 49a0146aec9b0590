"""Which of the others' edits a client takes: FedEdit's re-edit condition.

Source: FedLEKE (arXiv 2502.15677), eq. 8: a vector is taken when its cosine with at least half of
the client's own vectors exceeds ``alpha``. The paper and the code compare target vectors; on the
models measured here those cosines say little about the topic, so other measures and a threshold
taken from the client's own vectors stand beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fleke_flwr.types import MemoryVectors


def similarities(theirs: MemoryVectors, mine: MemoryVectors, measure: str) -> Tensor:
    """Return the cosine of each of their edits with each of mine, ``(n_theirs, n_mine)``.

    Parameters
    ----------
    theirs, mine : MemoryVectors
        Edits of the same base model.
    measure : str
        ``targets`` compares ``z`` (the paper), ``centred`` the same after taking off the mean of
        all vectors at hand, ``changes`` what an edit changes, ``z - h``, ``keys`` the keys (mean
        cosine over the edited layers), which carry the subject.
    """
    if measure == "keys":
        layers = [_cosines(theirs.keys[module], mine.keys[module]) for module in mine.keys]
        return torch.stack(layers).mean(dim=0)
    if measure == "changes":
        return _cosines(theirs.targets - theirs.hidden, mine.targets - mine.hidden)
    if measure == "centred":
        middle = torch.cat([theirs.targets, mine.targets]).mean(dim=0)
        return _cosines(theirs.targets - middle, mine.targets - middle)
    return _cosines(theirs.targets, mine.targets)


def own_quantile(mine: MemoryVectors, measure: str, quantile: float) -> float | None:
    """Return a quantile of the similarities among a client's own edits; ``None`` below two."""
    if len(mine) < 2:
        return None
    rows, columns = torch.triu_indices(len(mine), len(mine), offset=1)
    among = similarities(mine, mine, measure)[rows, columns]
    return float(torch.quantile(among.double(), quantile))


def passing(similarity: Tensor, alpha: float) -> Tensor:
    """Return which rows exceed ``alpha`` in at least half of their columns, ``(n_theirs,)``.

    Both comparisons are those of eq. 8: strictly more than ``alpha``, at least half. A client
    without edits of its own has nothing to compare with and takes everything.
    """
    exceeding = torch.gt(similarity, alpha).sum(dim=1)
    passed: Tensor = exceeding * 2 >= similarity.shape[1]
    return passed


def _cosines(theirs: Tensor, mine: Tensor) -> Tensor:
    tiny = torch.finfo(torch.float64).tiny
    first, second = (
        matrix.double() / matrix.double().norm(dim=1, keepdim=True).clamp(min=tiny)
        for matrix in (theirs, mine)
    )
    products: Tensor = first @ second.T
    return products

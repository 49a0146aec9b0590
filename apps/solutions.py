"""Solutions of personal models that grow by slots, kept for as long as the process lives.

What a client needs to go on is in its Flower state; a process that does not have the solution of
that state, since it has just been started, makes it anew and pays once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fleke_flwr.apps.personal import PersonalModel
from fleke_flwr.editors.vectors import residuals
from fleke_flwr.growing import GrowingSolution
from fleke_flwr.types import MemoryVectors

# By client: the fingerprint of the edits behind the solution, and the solution.
_KEPT: dict[int, tuple[str, GrowingSolution]] = {}


def fingerprint(personal: PersonalModel) -> str:
    """Hash the edits of a personal model."""
    digest = hashlib.sha256()
    for vectors in (personal.own, personal.received.vectors):
        for tensor in (vectors.targets, vectors.hidden):
            digest.update(tensor.contiguous().numpy().tobytes() + b"|")
    return digest.hexdigest()


def grown(
    client: int,
    blank: GrowingSolution,
    personal: PersonalModel,
    modules: Sequence[str],
    step: tuple[str, MemoryVectors],
    total: float,
) -> GrowingSolution:
    """Return the solution of all edits of a personal model.

    Parameters
    ----------
    client : int
        Whose model.
    blank : GrowingSolution
        An empty solution, to start from.
    personal : PersonalModel
        With the new edits in it.
    modules : Sequence[str]
        Edited modules, in layer order.
    step : tuple[str, MemoryVectors]
        Fingerprint before the new edits, and these edits.
    total : float
        How many times the editor writes the residual.
    """
    before, more = step
    # Another mode or prior is another blank: both are part of what a solution is for.
    kept, solution = _KEPT.get(client, ("", blank))
    if kept != f"{blank.identity} {before}":
        solution, more = blank, personal.own + personal.received.vectors
    _KEPT.pop(client, None)
    keys = [more.keys[module].T for module in modules]
    solution.extend(keys, residuals(more, {}) * total)
    _KEPT[client] = (f"{blank.identity} {fingerprint(personal)}", solution)
    return solution

"""Where the changes of a target vector enter the edited block.

Letters: ``n`` requests, ``p`` places that are changed, ``d`` residual width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.editors.rows import Begun
from fleke_flwr.errors import UnsupportedModelError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import carried, run_blocks, run_mlp
from fleke_flwr.models.hooks import captured_outputs
from fleke_flwr.models.placement import take


@dataclass(frozen=True)
class Passage:
    """An unedited pass through the edited block, as far as the changes depend on it.

    Parameters
    ----------
    hidden : Tensor
        Output of the block, ``(rows, length, d)``.
    entering : Tensor
        What the edited output is made of, at the subjects' last tokens, ``(rows, q, d)``; which
        ``q`` states these are is the entry's own business.
    initial : Tensor
        Unedited values at the places, ``(rows, p, d)``; the last place is the one that is
        written into the weights.
    """

    hidden: Tensor
    entering: Tensor
    initial: Tensor


class Entry(ABC):
    """The places of a block that are changed at the subject's last token."""

    def check(self, model: EditableModel) -> None:
        """Refuse a model whose blocks do not have these places; every block has an output."""
        return

    @abstractmethod
    def read(self, model: EditableModel, layer: int, begun: Begun) -> Passage:
        """Run the unedited model up to the output of block ``layer``."""

    @abstractmethod
    def enter(self, model: EditableModel, layer: int, entering: Tensor, change: Tensor) -> Tensor:
        """Return the edited output ``(rows, d)`` of block ``layer`` at the subjects' last tokens.

        Parameters
        ----------
        entering : Tensor
            Of the :class:`Passage`, ``(rows, q, d)``.
        change : Tensor
            Added at the places, ``(rows, p, d)``.
        """


class BlockOutput(Entry):
    """One change, added to the output of the block (MEMIT).

    What the edited projection adds reaches that output unchanged, so a change of the one is the
    same change of the other. With a norm behind the MLP (Gemma 2 and 3) it is not: there the
    change is added to the projection's output and carried through the norm, and
    :func:`~fleke_flwr.editors.keys.read` measures there, too. The papers know no such family.
    """

    def read(self, model: EditableModel, layer: int, begun: Begun) -> Passage:
        """Run everything up to the block's output."""
        if model.family.after_mlp:
            seen = _seen(model, layer, begun)
            initial = seen.projected[:, None]
            # Everything in the block's output but what the MLP adds.
            rest = seen.output - carried(model, layer, "after_mlp", seen.projected)
            return Passage(seen.hidden, torch.stack([rest, seen.projected], 1), initial)
        hidden, _ = run_blocks(model, begun.hidden, begun.part, 0, layer + 1)
        own = take(hidden, begun.where)[:, None]
        return Passage(hidden, own, own)

    def enter(self, model: EditableModel, layer: int, entering: Tensor, change: Tensor) -> Tensor:
        """Add the change."""
        if model.family.after_mlp:
            rest, projected = entering.unbind(1)
            return rest + carried(model, layer, "after_mlp", projected + change[:, 0])
        return entering[:, 0] + change[:, 0]


class AttentionAndMlp(Entry):
    """Two changes, added to the outputs of the block's attention and of its MLP (PMET).

    Where the MLP reads what the attention has written, the first change alters what the MLP
    computes, so the MLP of the edited block is run again at that one position; its attention, and
    all that lies below, depend on no change. Where the two stand side by side, as in the GPT-J
    that PMET was published on, both changes are added and nothing is run again. Both are changes
    of what the modules put out, before a norm that may follow them.
    """

    def check(self, model: EditableModel) -> None:
        """Refuse blocks of which the parts are not known.

        Raises
        ------
        UnsupportedModelError
            If the family's blocks are only ever called whole.
        """
        if not model.family.norm_2:
            raise UnsupportedModelError(
                f"{model.name!r}: blocks of type {model.family.model_type!r} are only known as a "
                "whole (no norm_2 in fleke_flwr/models/families.py). Whether they run attention "
                "and MLP side by side decides how a change of the attention's output goes on; "
                "complete the row, or use editor = memit"
            )

    def read(self, model: EditableModel, layer: int, begun: Begun) -> Passage:
        """Run everything up to the block's output, looking at its two parts."""
        seen = _seen(model, layer, begun)
        initial = torch.stack([seen.attended, seen.projected], dim=1)
        entering = torch.stack([seen.below, seen.attended, seen.projected], dim=1)
        return Passage(seen.hidden, entering, initial)

    def enter(self, model: EditableModel, layer: int, entering: Tensor, change: Tensor) -> Tensor:
        """Add one change, run the MLP if it sees it, add the other."""
        below, attended, projected = entering.unbind(1)
        middle = below + carried(model, layer, "after_attention", attended + change[:, 0])
        if not model.family.parallel:
            projected = run_mlp(model, layer, middle)
        return middle + carried(model, layer, "after_mlp", projected + change[:, 1])


@dataclass(frozen=True)
class _Seen:
    """A block's output ``(rows, length, d)``, and at the subjects' last tokens ``(rows, d)``."""

    hidden: Tensor
    below: Tensor
    attended: Tensor
    projected: Tensor
    output: Tensor


def _seen(model: EditableModel, layer: int, begun: Begun) -> _Seen:
    """Run everything up to the block's output and note what enters it and its two parts."""
    where = begun.where
    modules = {"attention": model.part(layer, "attention"), "mlp": model.projection(layer)}
    below, _ = run_blocks(model, begun.hidden, begun.part, 0, layer)
    with captured_outputs(modules) as captured:
        hidden, _ = run_blocks(model, below, begun.part, layer, layer + 1)
    device = hidden.device
    return _Seen(
        hidden,
        take(below, where).to(device),
        take(captured["attention"], where).to(device),
        take(captured["mlp"], where).to(device),
        take(hidden, where),
    )

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
from fleke_flwr.models.forward import run_blocks
from fleke_flwr.models.hooks import captured_outputs


@dataclass(frozen=True)
class Passage:
    """An unedited pass through the edited block, as far as the changes depend on it.

    Parameters
    ----------
    hidden : Tensor
        Output of the block, ``(rows, length, d)``.
    entering : Tensor
        What the changes are added to, at the subjects' last tokens, ``(rows, d)``.
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
            Of the :class:`Passage`, ``(rows, d)``.
        change : Tensor
            Added at the places, ``(rows, p, d)``.
        """


class BlockOutput(Entry):
    """One change, added to the output of the block (MEMIT)."""

    def read(self, model: EditableModel, layer: int, begun: Begun) -> Passage:
        """Run everything up to the block's output."""
        hidden, _ = run_blocks(model, begun.hidden, begun.part, 0, layer + 1)
        own = hidden[_where(begun)]
        return Passage(hidden, own, own[:, None])

    def enter(self, model: EditableModel, layer: int, entering: Tensor, change: Tensor) -> Tensor:
        """Add the change."""
        return entering + change[:, 0]


class AttentionAndMlp(Entry):
    """Two changes, added to the outputs of the block's attention and of its MLP (PMET).

    The first one changes what the MLP computes, so the MLP of the edited block is run again at
    that one position; its attention, and all that lies below, depend on no change.
    """

    def check(self, model: EditableModel) -> None:
        """Refuse blocks in which the MLP does not read what the attention has written.

        Raises
        ------
        UnsupportedModelError
            If the family's blocks are only ever called whole.
        """
        if not model.family.norm_2:
            raise UnsupportedModelError(
                f"{model.name!r}: blocks of type {model.family.model_type!r} run attention and "
                "MLP side by side or are only known as a whole (no norm_2 in "
                "fleke_flwr/models/families.py), so a change of the attention's output cannot be "
                "carried on through the MLP; use editor = memit"
            )

    def read(self, model: EditableModel, layer: int, begun: Begun) -> Passage:
        """Run everything up to the block's output, looking at its two parts."""
        attention = model.blocks[layer].get_submodule(model.family.attention)
        modules = {"attention": attention, "mlp": model.projection(layer)}
        below, _ = run_blocks(model, begun.hidden, begun.part, 0, layer)
        with captured_outputs(modules) as captured:
            hidden, _ = run_blocks(model, below, begun.part, layer, layer + 1)
        where = _where(begun)
        initial = torch.stack([captured[name][where] for name in modules], dim=1)
        return Passage(hidden, below[where] + initial[:, 0], initial)

    def enter(self, model: EditableModel, layer: int, entering: Tensor, change: Tensor) -> Tensor:
        """Add one change, run the MLP, add the other."""
        block, family = model.blocks[layer], model.family
        middle = entering + change[:, 0]
        normed = block.get_submodule(family.norm_2)(middle)
        output: Tensor = block.get_submodule(family.mlp)(normed)
        return middle + (output + change[:, 1])


def _where(begun: Begun) -> tuple[Tensor, Tensor]:
    return torch.arange(len(begun.subject), device=begun.subject.device), begun.subject

"""How well an edit did: the new answers behind all phrasings, and what has stayed.

Sources: MEND section 3.1 and MALMEN section 3: cross-entropy of the new answer plus the divergence
of the edited model from the base model on unrelated prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fleke_flwr.editors.hyper.readings import (
    Answered,
    answer_logits,
    answer_states,
    batches,
    labels,
    per_text,
)
from fleke_flwr.models import EditableModel


@torch.no_grad()
def base_states(model: EditableModel, kept: Sequence[Answered], batch_tokens: int) -> list[Tensor]:
    """Return the last hidden states ``(answer tokens, d)`` of every text, small enough to keep."""
    found: list[Tensor] = [torch.empty(0)] * len(kept)
    for batch in batches(model, kept, batch_tokens):
        states, owners = answer_states(model, [kept[number] for number in batch])
        for row, number in enumerate(batch):
            found[number] = states[owners == row]
    return found


def locality_losses(
    model: EditableModel, kept: Sequence[Answered], base: Sequence[Tensor]
) -> Tensor:
    """Return the divergence ``KL(base | edited)`` at the answers of every text, ``(texts,)``.

    ``base`` are the states of the base model, as :func:`base_states` gives them.
    """
    logits, owners = answer_logits(model, kept)
    with torch.no_grad():
        before = model.logits(torch.cat(list(base))).to(logits).log_softmax(dim=1)
    divergence = functional.kl_div(
        logits.log_softmax(dim=1), before, reduction="none", log_target=True
    ).sum(dim=1)
    return per_text(divergence, owners, kept)


def right_tokens(model: EditableModel, texts: Sequence[Answered]) -> tuple[Tensor, Tensor]:
    """Return loss and share of right tokens of every answer, ``(texts,)`` each."""
    logits, owners = answer_logits(model, texts)
    wanted = labels(texts, logits.device)
    losses = functional.cross_entropy(logits, wanted, reduction="none")
    right = (logits.argmax(dim=1) == wanted).to(losses.dtype)
    return per_text(losses, owners, texts), per_text(right, owners, texts)

"""Context prefixes that target vectors and keys are averaged over."""

from __future__ import annotations

import torch

from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.tokens import SLOT, encode, neutral

_STARTERS = ("The", "Therefore", "Because", "I", "You")
_TOP_K = 5
_ENDINGS = (".", "!", "?")


@torch.no_grad()
def sample_contexts(model: EditableModel, count: int, length: int, seed: int) -> list[str]:
    """Sample prefixes from the unedited model: ``["{}", "<text>. {}", ...]``.

    MEMIT's recipe: top-k sampling with k = 5, started by "The", "Therefore", "Because", "I" and
    "You" in turn. Departs from the released code in being seeded, so that all clients, and two
    runs, use the same prefixes; braces in the sampled text become spaces.

    Parameters
    ----------
    count : int
        Prefixes besides the bare ``"{}"``.
    length : int
        Tokens of a prefix, starter included.
    seed : int
        Equal seeds give equal prefixes on the same model.
    """
    generator = torch.Generator().manual_seed(seed)
    contexts = [SLOT]
    for index in range(count):
        ids = encode(model, _STARTERS[index % len(_STARTERS)])
        while len(ids) < length:
            logits = model.model(torch.tensor([ids], device=model.device)).logits[0, -1]
            top = torch.topk(logits.float().cpu(), min(_TOP_K, len(logits)))
            choice = torch.multinomial(torch.softmax(top.values, 0), 1, generator=generator)
            ids.append(int(top.indices[choice]))
        text = neutral(str(model.tokenizer.decode(ids, skip_special_tokens=True)))
        text = " ".join(text.split())
        contexts.append(f"{text if text.endswith(_ENDINGS) else text + '.'} {SLOT}")
    return contexts

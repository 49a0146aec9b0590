"""What a hyper-network reads of requests: keys and output gradients of their tokens.

Letters: ``k (tokens, d_in)`` rows that enter a module, ``g (tokens, d_out)`` gradients of the
request's loss with respect to what the module puts out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fleke_flwr.errors import StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.tokens import check_length, encode, pad_batch, target_ids

TOKENS = ("answer", "all")
TokenRows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Answered:
    """A prompt with an answer, as a model reads it.

    Parameters
    ----------
    ids : tuple[int, ...]
        Prompt and answer without the answer's last token, behind which nothing is asked.
    start : int
        Place that predicts the answer's first token.
    answer : tuple[int, ...]
        The answer's tokens.
    """

    ids: tuple[int, ...]
    start: int
    answer: tuple[int, ...]


def answered(model: EditableModel, prompt: str, answer: str) -> Answered:
    """Encode a prompt and the answer that follows it after a space.

    Raises
    ------
    RequestError
        If together they are longer than the model can read.
    """
    start, tokens = encode(model, prompt), target_ids(model, answer.strip())
    ids = (*start, *tokens[:-1])
    check_length(model, prompt, answer, len(ids))
    return Answered(ids, len(start) - 1, tuple(tokens))


def answer_states(model: EditableModel, texts: Sequence[Answered]) -> tuple[Tensor, Tensor]:
    """Return hidden states ``(answer tokens, d)`` before the head, and the text of each."""
    ids, lengths = pad_batch(model, [text.ids for text in texts])
    mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
    hidden = model.model.base_model(
        input_ids=ids, attention_mask=mask, use_cache=False
    ).last_hidden_state
    rows = [row for row, text in enumerate(texts) for _ in text.answer]
    columns = [text.start + place for text in texts for place in range(len(text.answer))]
    owners = torch.tensor(rows, dtype=torch.long, device=hidden.device)
    where = torch.tensor(columns, dtype=torch.long, device=hidden.device)
    return hidden[owners, where], owners


def answer_logits(model: EditableModel, texts: Sequence[Answered]) -> tuple[Tensor, Tensor]:
    """Return logits ``(answer tokens, vocabulary)`` and the number of the text of each."""
    states, owners = answer_states(model, texts)
    logits = model.logits(states).to(model.working_dtype)
    return logits, owners.to(logits.device)


def per_text(values: Tensor, owners: Tensor, texts: Sequence[Answered]) -> Tensor:
    """Return the mean ``(texts,)`` of values at answer tokens."""
    counts = torch.tensor([len(text.answer) for text in texts], device=values.device)
    sums = values.new_zeros(len(texts)).index_add(0, owners, values)
    return sums / counts


def labels(texts: Sequence[Answered], device: torch.device) -> Tensor:
    """Return the answers' tokens, one after the other."""
    return torch.tensor([token for text in texts for token in text.answer], device=device)


def answer_losses(model: EditableModel, texts: Sequence[Answered]) -> Tensor:
    """Return the mean cross-entropy ``(texts,)`` of each answer's tokens."""
    logits, owners = answer_logits(model, texts)
    losses = functional.cross_entropy(logits, labels(texts, logits.device), reduction="none")
    return per_text(losses, owners, texts)


def batches(
    model: EditableModel, texts: Sequence[Answered], batch_tokens: int
) -> Iterator[list[int]]:
    """Yield the numbers of texts, by length, in batches of bounded size; the last may be ragged."""
    limit = model.batch_limit(batch_tokens)
    batch: list[int] = []
    for number in sorted(range(len(texts)), key=lambda index: len(texts[index].ids)):
        if batch and (len(batch) + 1) * len(texts[number].ids) > limit:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def read_tokens(
    model: EditableModel,
    modules: Sequence[str],
    texts: Sequence[Answered],
    tokens: str,
    batch_tokens: int,
) -> list[dict[str, TokenRows]]:
    """Return ``k`` and ``g`` of every text's tokens by module.

    The loss of a text is the mean over its own answer's tokens, and the losses of a batch are
    added. MALMEN's code takes the mean over the batch, so that what a request asks for would depend
    on how many others are there and clients of different size could not be merged.

    Parameters
    ----------
    model : EditableModel
        As it stands; its parameters stay frozen.
    modules : Sequence[str]
        Full names.
    texts : Sequence[Answered]
        May be empty.
    tokens : str
        ``"answer"``: the places that predict the answer's tokens; ``"all"``: every token. Tokens
        that the loss does not reach are left out.
    batch_tokens : int
        Upper bound of the tokens in one pass.

    Raises
    ------
    StatisticsError
        If a loss or a gradient is not finite.
    """
    found: list[dict[str, TokenRows]] = [{} for _ in texts]
    for batch in batches(model, texts, batch_tokens):
        chosen = [texts[number] for number in batch]
        with _watched(model.model, modules) as (inputs, outputs), torch.enable_grad():
            losses = answer_losses(model, chosen)
            _check_finite(losses)
            gradients = torch.autograd.grad(losses.sum(), [outputs[name] for name in modules])
        for gradient in gradients:
            _check_finite(gradient)
        for name, gradient in zip(modules, gradients, strict=True):
            for row, number in enumerate(batch):
                found[number][name] = _rows(
                    inputs[name][row], gradient, (row, texts[number]), tokens
                )
    return found


def _check_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise StatisticsError(
            "losses or gradients of requests are NaN or infinite before anything was edited: the "
            "model overflows on their prompts; use model.dtype = float32 or bfloat16"
        )


def _rows(keys: Tensor, gradient: Tensor, place: tuple[int, Answered], tokens: str) -> TokenRows:
    row, text = place
    first = text.start if tokens == "answer" else 0
    part = slice(first, len(text.ids))
    wanted = gradient[row, part]
    reached = wanted.abs().amax(dim=1) > 0
    return keys[part][reached], wanted[reached]


@contextmanager
def _watched(
    model: nn.Module, modules: Sequence[str]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Collect what enters modules and what they put out, with a graph from the first of them on."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    handles = []
    try:
        for name in modules:

            def keep(
                _: nn.Module, args: tuple[Any, ...], output: Tensor, name: str = name
            ) -> Tensor:
                inputs[name] = args[0].detach()
                outputs[name] = output if output.requires_grad else output.requires_grad_()
                return outputs[name]

            handles.append(model.get_submodule(name).register_forward_hook(keep))
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def joined(found: Sequence[Mapping[str, TokenRows]], module: str) -> TokenRows:
    """Return the tokens of several texts, one text after the other; there must be a text."""
    keys = torch.cat([rows[module][0] for rows in found])
    gradients = torch.cat([rows[module][1] for rows in found])
    return keys, gradients

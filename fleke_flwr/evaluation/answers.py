"""How likely a model finds given answers to prompts, many at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.tokens import check_length, encode, pad_batch, target_ids
from fleke_flwr.progress import Progress

Question = tuple[str, str]
# Logits held at a time, places times vocabulary: 128 MiB in float32.
_UNEMBEDDED = 2**25


@dataclass(frozen=True)
class Answer:
    """What the model makes of one answer.

    Parameters
    ----------
    nll : float
        Negative log likelihood per token of the answer, teacher-forced.
    right : float
        Share of the answer's tokens that are the most likely one, teacher-forced.
    """

    nll: float
    right: float

    @property
    def is_top(self) -> bool:
        """Whether every token of the answer is the most likely one."""
        return self.right == 1


@dataclass(frozen=True)
class _Read:
    """One token of one answer: where it is predicted and what it should be."""

    question: int
    position: int
    token: int


@torch.no_grad()
def judge(
    model: EditableModel,
    questions: Iterable[Question],
    batch_tokens: int,
    progress: Progress,
) -> dict[Question, Answer]:
    """Return the answer's likelihood for every distinct ``(prompt, answer)``.

    Prompt and answer are tokenized apart, as in MEMIT's evaluation, and the answer follows a space.
    Every token is read behind the prompt's ids and the answer's earlier ids. MEMIT's code for zsRE
    instead decodes the earlier tokens, encodes the text again and compares with the first id of the
    decoded token, which loses the space in front of it for some tokenizers and may cut other
    tokens; for tokenizers that put a special token in front, it even compares with that one.
    Questions whose token sequences are equal up to the last token share one forward pass, so the
    single-token answers of a prompt cost one. Only the needed positions are unembedded.

    Parameters
    ----------
    model : EditableModel
        With whatever edits are applied; where it gives no numbers, no answer is likely.
    questions : Iterable[Question]
        Prompts with answers.
    batch_tokens : int
        Upper bound of the padded tokens in one forward pass; one long text may exceed it.
    progress : Progress
        Told of the phase ``evaluate``, in sequences.

    Raises
    ------
    RequestError
        If a prompt with its answer is longer than the model can read.
    """
    distinct = list(dict.fromkeys(questions))
    reads: dict[tuple[int, ...], list[_Read]] = {}
    lengths = []
    starts = {prompt: encode(model, prompt) for prompt, _ in distinct}
    ends = {answer: target_ids(model, answer) for _, answer in distinct}
    for index, (prompt, answer) in enumerate(distinct):
        start, tokens = starts[prompt], ends[answer]
        check_length(model, prompt, answer, len(start) + len(tokens) - 1)
        lengths.append(len(tokens))
        found = reads.setdefault((*start, *tokens[:-1]), [])
        found.extend(_Read(index, len(start) - 1 + i, token) for i, token in enumerate(tokens))
    totals = torch.zeros(len(distinct), dtype=torch.float64)
    hits = torch.zeros(len(distinct), dtype=torch.long)
    progress.start("evaluate", len(reads))
    for batch in _batches(list(reads), model.batch_limit(batch_tokens)):
        _judge_batch(model, batch, [reads[ids] for ids in batch], (totals, hits))
        progress.advance("evaluate", len(batch))
    return {
        question: Answer(float(totals[index]) / lengths[index], int(hits[index]) / lengths[index])
        for index, question in enumerate(distinct)
    }


def _judge_batch(
    model: EditableModel,
    sequences: Sequence[tuple[int, ...]],
    reads: Sequence[Sequence[_Read]],
    results: tuple[Tensor, Tensor],
) -> None:
    ids, lengths = pad_batch(model, sequences)
    columns = torch.arange(ids.shape[1], device=ids.device)
    mask = (columns < lengths[:, None]).long()
    hidden = model.model.base_model(
        input_ids=ids, attention_mask=mask, use_cache=False
    ).last_hidden_state
    places: dict[tuple[int, int], list[_Read]] = {}
    for row, found in enumerate(reads):
        for read in found:
            places.setdefault((row, read.position), []).append(read)
    at_once = max(1, _UNEMBEDDED // model.config.vocab_size)
    for start in range(0, len(places), at_once):
        part = dict(list(places.items())[start : start + at_once])
        rows, positions = (torch.tensor(values) for values in zip(*part, strict=True))
        logits = model.logits(hidden[rows, positions]).to(model.working_dtype)
        _collect(logits, list(part.values()), results)


def _collect(
    logits: Tensor, reads: Sequence[Sequence[_Read]], results: tuple[Tensor, Tensor]
) -> None:
    """Add what ``logits (places, vocab)`` say of the tokens read at every place."""
    flat = [(place, read) for place, found in enumerate(reads) for read in found]
    place = torch.tensor([number for number, _ in flat], device=logits.device)
    token = torch.tensor([read.token for _, read in flat], device=logits.device)
    losses = (logits.logsumexp(dim=1)[place] - logits[place, token]).double().cpu()
    is_top = (logits.argmax(dim=1)[place] == token).cpu() & losses.isfinite()
    owners = torch.tensor([read.question for _, read in flat])
    totals, hits = results
    totals.index_add_(0, owners, losses.nan_to_num(nan=math.inf, posinf=math.inf))
    hits.index_add_(0, owners, is_top.long())


def _batches(
    sequences: list[tuple[int, ...]], batch_tokens: int
) -> Iterator[list[tuple[int, ...]]]:
    """Cut sequences, sorted by length, into batches of at most ``batch_tokens`` padded tokens."""
    batch: list[tuple[int, ...]] = []
    for ids in sorted(sequences, key=len):
        if batch and (len(batch) + 1) * len(ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch

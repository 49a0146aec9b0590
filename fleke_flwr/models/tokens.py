"""Text to token ids, and where in them the subject and the target are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fleke_flwr.errors import RequestError
from fleke_flwr.models.loading import EditableModel

SLOT = "{}"


def encode(model: EditableModel, text: str) -> list[int]:
    """Return the token ids of a text, with the special tokens the model expects in front.

    Raises
    ------
    RequestError
        If the text is longer than the model can read.
    """
    return encode_with_spans(model, text)[0]


def encode_with_spans(model: EditableModel, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return token ids and the characters ``[start, end)`` each one covers.

    Special tokens at the end are left off: what follows continues the text.

    Raises
    ------
    RequestError
        If the text is longer than the model can read.
    """
    encoding = model.tokenizer(text, return_offsets_mapping=True)
    spans = [(int(start), int(end)) for start, end in encoding["offset_mapping"]]
    used = max((index + 1 for index, (start, end) in enumerate(spans) if end > start), default=0)
    if used > model.max_positions:
        raise RequestError(
            f"a text of {used} tokens is longer than the {model.max_positions} that model "
            f"{model.name!r} can read; shorten it: {text[:80]!r}"
        )
    return list(encoding["input_ids"])[:used], spans[:used]


def neutral(text: str) -> str:
    """Replace braces by spaces, so that free text can become a template."""
    return text.replace("{", " ").replace("}", " ")


def last_token_before(spans: Sequence[tuple[int, int]], end: int, subject: str) -> int:
    """Return the index of the last token that starts before character ``end``.

    Parameters
    ----------
    spans : Sequence[tuple[int, int]]
        Characters that each token covers.
    end : int
        Where the subject ends.
    subject : str
        For the error.

    Raises
    ------
    RequestError
        If the tokenizer has made nothing of the subject.
    """
    start = end - len(subject)
    found = [index for index, span in enumerate(spans) if span[1] > span[0] and span[0] < end]
    if not found or spans[found[-1]][1] <= start:
        raise RequestError(
            f"the tokenizer makes no token of the subject {subject!r}; write it in letters that "
            "the model's tokenizer knows, or leave the record out"
        )
    return found[-1]


def encode_answer(
    model: EditableModel, text: str, answer: str
) -> tuple[list[int], list[tuple[int, int]], int]:
    """Return ids and spans of a text that an answer continues, and where its tokens begin.

    Raises
    ------
    RequestError
        If both are too long together, or the tokenizer cannot express the answer.
    """
    whole = f"{text} {answer}"
    ids, spans = encode_with_spans(model, whole)
    found = [index for index, (_, stop) in enumerate(spans) if stop > len(text)]
    covered = {place for start, stop in spans for place in range(start, stop)}
    lost = [
        whole[place]
        for place in range(len(text) + 1, len(whole))
        if whole[place].isalnum() and place not in covered
    ]
    unknown = model.tokenizer.unk_token_id
    if not found or lost or unknown in (ids[index] for index in found):
        raise RequestError(
            f"the tokenizer of model {model.name!r} cannot express the target {answer!r}"
            f"{f' (it drops {lost[0]!r})' if lost else ''}; write it in letters that the "
            "tokenizer knows, or leave the record out"
        )
    return ids, spans, found[0]


def subject_position(model: EditableModel, template: str, subject: str) -> tuple[list[int], int]:
    """Return the token ids of a filled template and the index of the subject's last token.

    The position comes from character offsets, so special tokens and prefix spaces do not matter.

    Raises
    ------
    RequestError
        If the template has not exactly one slot, the text is too long, or the tokenizer makes
        nothing of the subject.
    """
    text, end = fill(template, subject)
    ids, spans = encode_with_spans(model, text)
    return ids, last_token_before(spans, end, subject)


def fill(template: str, subject: str) -> tuple[str, int]:
    """Return the template with the subject in its slot, and the character where it ends.

    Raises
    ------
    RequestError
        If the template has not exactly one slot.
    """
    if template.count(SLOT) != 1:
        raise RequestError(f"template {template!r}: write exactly one slot {SLOT!r}")
    start = template.index(SLOT)
    return template.replace(SLOT, subject), start + len(subject)


def pad_batch(model: EditableModel, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids ``(rows, longest)`` padded on the right and the lengths ``(rows,)``."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    longest = int(lengths.max()) if len(rows) else 0
    ids = torch.full((len(rows), longest), int(model.tokenizer.pad_token_id), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids.to(model.device), lengths.to(model.device)


def check_length(model: EditableModel, prompt: str, answer: str, length: int) -> None:
    """Refuse a prompt with an answer behind it that together have too many tokens.

    Raises
    ------
    RequestError
        Naming both.
    """
    if length > model.max_positions:
        raise RequestError(
            f"prompt {prompt[:80]!r} with answer {answer[:40]!r} has {length} tokens, and model "
            f"{model.name!r} can read {model.max_positions}; shorten it"
        )


def target_ids(model: EditableModel, target: str) -> list[int]:
    """Return the tokens of an answer as they appear inside a sentence, after a space.

    Raises
    ------
    RequestError
        If the tokenizer cannot express the answer.
    """
    ids, _, first = encode_answer(model, "The answer is", target)
    return ids[first:]

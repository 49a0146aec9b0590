"""Perplexity on text that nobody edited: what editing has done to the rest of the model.

Every document is read on its own, in windows of fixed length that share no token, and every token
but a window's first is predicted from those before it in the window. What special tokens the
tokenizer puts in front stands in front of every window. So figures compare for the same text, model
and window, and not with published ones, which mostly slide their windows.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fleke_flwr.config import EvaluationConfig
from fleke_flwr.errors import DataError
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.placement import take
from fleke_flwr.models.tokens import pad_batch

Window = tuple[int, ...]
_LONGEST_WINDOW = 1024
# Logits held at a time, places times vocabulary: 128 MiB in float32.
_UNEMBEDDED = 2**25


@dataclass(frozen=True)
class HeldOutText:
    """Where held-out text comes from.

    Parameters
    ----------
    path : Path
        UTF-8 text, plain or compressed with gzip. Documents are parted by blank lines; in a text
        without blank lines every line is one.
    changed : int
        When the file was last changed, so that a new content is read anew.
    tokens : int
        How many predicted tokens are wanted; fewer if the text ends before.
    from_end : bool
        Whether the last documents are read, because the first ones serve another purpose.
    """

    path: Path
    changed: int
    tokens: int
    from_end: bool = False

    @property
    def name(self) -> str:
        """What a reader is told about the source."""
        return f"the end of {self.path.name}" if self.from_end else self.path.name


@dataclass(frozen=True)
class TextLoss:
    """Loss on every window of a text.

    Parameters
    ----------
    losses : Tensor
        Negative log likelihood of each window, ``(windows,)`` in float64.
    counts : Tensor
        Predicted tokens of each window, ``(windows,)``.
    """

    losses: Tensor
    counts: Tensor

    @property
    def tokens(self) -> int:
        """Predicted tokens in all."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Loss per token, in nats."""
        return float(self.losses.sum() / self.counts.sum())

    @property
    def perplexity(self) -> float | None:
        """``exp`` of the mean loss; ``None`` where that is no finite number."""
        return exponential(self.mean)

    def change_since(self, base: TextLoss) -> tuple[float | None, float | None]:
        """Return the change of perplexity in percent and half of its 95 % interval.

        The interval pairs windows, as both models have read the same text: with ``d_w`` the
        difference of losses and ``n_w`` the tokens of a window, the variance of the ratio
        ``sum d_w / sum n_w`` is ``sum (d_w - n_w d)^2 / N^2`` (windows as clusters).
        """
        difference = self.losses - base.losses
        mean = float(difference.sum() / self.counts.sum())
        ratio = exponential(mean)
        if ratio is None:
            return None, None
        spread = float((difference - self.counts * mean).square().sum().sqrt()) / self.tokens
        return 100 * (ratio - 1), 196 * ratio * spread


def exponential(value: float) -> float | None:
    """Return ``exp``, or ``None`` where it is no finite number."""
    return math.exp(value) if value < 700 else None


def held_out(model: EditableModel, config: EvaluationConfig) -> HeldOutText | None:
    """Find the text: the one named, else the model's ``heldout.txt``, else its corpus's end.

    The covariance reads the corpus from its beginning and, unless it is asked for nearly all
    of it, never comes to the end.

    Returns
    -------
    HeldOutText or None
        ``None`` if no token is wanted, or none is named and the model brings none.

    Raises
    ------
    DataError
        If the named file is missing.
    """
    if not config.text_tokens:
        return None
    if config.text:
        path = Path(config.text).expanduser()
        if not path.is_file():
            raise DataError(
                f"evaluation.text = {config.text!r}: no such file; name a text file (plain or "
                ".gz), or set evaluation.text-tokens=0 to measure no perplexity"
            )
        return HeldOutText(path.resolve(), path.stat().st_mtime_ns, config.text_tokens)
    for name, from_end in (("heldout.txt", False), ("corpus.txt", True)):
        own = None if model.directory is None else model.directory / name
        if own is not None and own.is_file():
            return HeldOutText(own, own.stat().st_mtime_ns, config.text_tokens, from_end)
    return None


@lru_cache(maxsize=4)
def windows(model: EditableModel, text: HeldOutText) -> tuple[Window, ...]:
    """Return the token ids of every window, special tokens in front included.

    Raises
    ------
    DataError
        If the file cannot be read as text or has no two tokens in a row.
    """
    documents = _documents(text.path)
    found: list[Window] = []
    left = text.tokens
    for document in reversed(documents) if text.from_end else documents:
        for window in _cut(model, document):
            window = window[: left + 1]
            if len(window) > 1:
                found.append(window)
                left -= len(window) - 1
        if not left:
            break
    if not found:
        raise DataError(f"{text.path}: holds no text of two tokens; name another evaluation.text")
    return tuple(found)


@torch.no_grad()
def text_loss(model: EditableModel, texts: Sequence[Window], batch_tokens: int) -> TextLoss:
    """Read windows with whatever edits are applied.

    A loss that is not a number, as a model that is beyond repair has it, counts as infinite.

    Parameters
    ----------
    model : EditableModel
        The model.
    texts : Sequence[Window]
        From :func:`windows`.
    batch_tokens : int
        Upper bound of the padded tokens in one forward pass; one window may exceed it.
    """
    losses = torch.zeros(len(texts), dtype=torch.float64)
    for batch in _batches(texts, model.batch_limit(batch_tokens)):
        losses[batch] = _read(model, [texts[place] for place in batch])
    losses = losses.nan_to_num(nan=math.inf, posinf=math.inf)
    return TextLoss(losses, torch.tensor([len(window) - 1 for window in texts]))


def _documents(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
        content = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    content = content.replace("\r\n", "\n").strip()
    pieces = content.split("\n\n" if "\n\n" in content else "\n")
    return [piece.strip() for piece in pieces if piece.strip()]


def _cut(model: EditableModel, document: str) -> Iterator[Window]:
    """Cut one document; only its last window is shorter than the others."""
    tokenizer = model.tokenizer
    plain = list(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])
    whole = list(tokenizer(document, verbose=False)["input_ids"])
    front = whole[:1] if whole[0] in tokenizer.all_special_ids and whole[:1] != plain[:1] else []
    size = min(model.max_positions, _LONGEST_WINDOW) - len(front)
    for start in range(0, len(plain), size):
        yield (*front, *plain[start : start + size])


def _batches(texts: Sequence[Window], batch_tokens: int) -> Iterator[list[int]]:
    """Yield places of windows, sorted by length, of at most ``batch_tokens`` padded tokens."""
    batch: list[int] = []
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        if batch and (len(batch) + 1) * len(texts[place]) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _read(model: EditableModel, texts: Sequence[Window]) -> Tensor:
    """Return the loss of every window, ``(rows,)`` in float64."""
    ids, lengths = pad_batch(model, texts)
    columns = torch.arange(ids.shape[1], device=ids.device)
    mask = columns < lengths[:, None]
    hidden = model.model.base_model(
        input_ids=ids, attention_mask=mask.long(), use_cache=False
    ).last_hidden_state
    rows, positions = mask[:, 1:].nonzero(as_tuple=True)
    losses = torch.zeros(len(texts), dtype=torch.float64)
    at_once = max(1, _UNEMBEDDED // model.config.vocab_size)
    for start in range(0, len(rows), at_once):
        some, places = rows[start : start + at_once], positions[start : start + at_once]
        logits = model.logits(take(hidden, (some, places))).to(model.working_dtype)
        right = logits.gather(1, ids[some, places + 1, None].to(logits.device))[:, 0]
        losses.index_add_(0, some.cpu(), (logits.logsumexp(dim=1) - right).double().cpu())
    return losses

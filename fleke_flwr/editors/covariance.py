"""What the edited projections already store: second moments ``E[k k^T]`` of their inputs.

The sums are streamed in float64, a checkpoint is kept on the way, and finished moments are cached
by content: the model's fingerprint, the corpus, the number of tokens and the module. They stay on
disk until one is asked for. Departs from the released codes, which accumulate in float32 and cache
by the model's name.

Letters: ``f`` input width of a projection.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.config import CovarianceConfig
from fleke_flwr.editors.stored import MomentBlock, StoredMoments, load_moment
from fleke_flwr.errors import ConfigError, DataError, StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.forward import run_block_at, run_blocks, segment
from fleke_flwr.models.hooks import captured_keys
from fleke_flwr.models.placement import take
from fleke_flwr.models.tokens import pad_batch
from fleke_flwr.prior import Prior
from fleke_flwr.progress import Progress

PHASE = "covariance"
_BATCH_TOKENS = 8192
_CHECKPOINT_TOKENS = 50_000


def second_moments(
    model: EditableModel,
    texts: Iterable[str],
    layers: Sequence[int],
    tokens: int,
    cache_dir: Path,
    progress: Progress,
) -> Mapping[str, Tensor]:
    """Return ``E[k k^T] (f, f)`` in float64 for the projections of some layers.

    Parameters
    ----------
    model : EditableModel
        The unedited model.
    texts : Iterable[str]
        Documents; each is cut at the longest text the model can read.
    layers : Sequence[int]
        Whose projections.
    tokens : int
        Stop after so many tokens; fewer if the texts end before.
    cache_dir : Path
        Where moments and checkpoints lie. An interrupted computation goes on from the last
        checkpoint and ends with the same bits.
    progress : Progress
        Told of tokens, phase ``"covariance"``, and of what was reused.

    Returns
    -------
    Mapping[str, Tensor]
        By module name; a moment is read from its file whenever it is asked for.

    Raises
    ------
    StatisticsError
        If the texts hold no token, or a cached file belongs to another model.
    """
    corpus = list(texts)
    run = _Run(model, layers, tokens, _corpus_hash(corpus), cache_dir)
    missing = [layer for layer in layers if not run.path(layer).is_file()]
    if missing:
        sums = _stream(model, corpus, missing, run, progress)
        for layer in missing:
            moment = sums.by_layer.pop(layer).div_(sums.count)
            write_tensors(run.path(layer), {"moment": moment}, run.metadata(layer))
        run.checkpoint(missing).unlink(missing_ok=True)
    for layer in layers:
        load_moment(run.path(layer), model.fingerprint, model.module_name(layer))
        if layer not in missing:
            progress.line(f"covariance reused from {run.path(layer)}")
    paths = {model.module_name(layer): run.path(layer) for layer in layers}
    return StoredMoments(model.fingerprint, paths)


def priors(moments: Mapping[str, Tensor], ridge_weight: float) -> dict[str, Prior]:
    """Return the prior ``C = lambda E[k k^T]`` of every module.

    A prior is factored when its factor is first needed. The process keeps as many factors as fit
    into its budget and makes the others again.

    Raises
    ------
    StatisticsError
        If the weight is not positive; later, if a moment cannot be factored.
    """
    if ridge_weight <= 0:
        raise StatisticsError(
            f"edit.ridge-weight = {ridge_weight:g}: the prior needs a positive weight"
        )
    return {module: Prior.of([MomentBlock(moments, module, ridge_weight)]) for module in moments}


def corpus_texts(model: EditableModel, config: CovarianceConfig) -> list[str]:
    """Return the documents of the covariance: a given file, or the model's own ``corpus.txt``.

    Documents are separated by blank lines; without any blank line every line is one. A file that
    ends in ``.gz`` is unpacked on the way.

    Raises
    ------
    ConfigError
        If no corpus is given and the model brings none.
    DataError
        If the file is missing, empty or not text.
    """
    if config.corpus:
        path = Path(config.corpus).expanduser()
    elif model.directory is not None and (model.directory / "corpus.txt").is_file():
        path = model.directory / "corpus.txt"
    else:
        raise ConfigError(
            f"model {model.name!r} brings no text of its own; give covariance.corpus, a text file"
        )
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; correct covariance.corpus") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error
    text = text.replace("\r\n", "\n").strip()
    texts = [piece.strip() for piece in text.split("\n\n" if "\n\n" in text else "\n")]
    texts = [piece for piece in texts if piece]
    if not texts:
        raise DataError(f"{path}: holds no text")
    return texts


@dataclass(frozen=True)
class _Run:
    """Names of what one computation reads and writes."""

    model: EditableModel
    layers: Sequence[int]
    tokens: int
    corpus: str
    directory: Path

    def metadata(self, layer: int) -> dict[str, Any]:
        return {
            "schema": 1,
            "fingerprint": self.model.fingerprint,
            "corpus": self.corpus,
            "tokens": self.tokens,
            "module": self.model.module_name(layer),
        }

    def path(self, layer: int) -> Path:
        return self.directory / f"covariance-{_hash(str(self.metadata(layer)))}.safetensors"

    def checkpoint(self, layers: Sequence[int]) -> Path:
        names = str([self.metadata(layer) for layer in layers])
        return self.directory / f"covariance-{_hash(names)}.checkpoint.safetensors"


@dataclass
class _Sums:
    """Sums so far: ``by_layer (f, f)``, tokens counted and batches done."""

    by_layer: dict[int, Tensor]
    count: int = 0
    batches: int = 0
    saved: int = field(default=0)

    @classmethod
    def start(cls, model: EditableModel, layers: Sequence[int], path: Path) -> _Sums:
        """Begin at zero, or at the checkpoint if there is a sound one."""
        if path.is_file():
            tensors, metadata = read_tensors(path)
            sums = {layer: tensors[str(layer)] for layer in layers}
            count = int(metadata["count"])
            return cls(sums, count, int(metadata["batches"]), count)
        widths = {layer: model.input_width(layer) for layer in layers}
        return cls({layer: torch.zeros(f, f, dtype=torch.float64) for layer, f in widths.items()})

    def save(self, path: Path) -> None:
        """Write a checkpoint that replaces the one before."""
        tensors = {str(layer): matrix for layer, matrix in self.by_layer.items()}
        write_tensors(path, tensors, {"count": self.count, "batches": self.batches})
        self.saved = self.count


def _stream(
    model: EditableModel,
    texts: Sequence[str],
    layers: Sequence[int],
    run: _Run,
    progress: Progress,
) -> _Sums:
    path = run.checkpoint(layers)
    sums = _Sums.start(model, layers, path)
    progress.start(PHASE, run.tokens)
    if sums.count:
        progress.line(f"covariance resumed from {path} at {sums.count} of {run.tokens} tokens")
        progress.advance(PHASE, sums.count)
    for number, batch in enumerate(_batches(model, texts, run.tokens)):
        if number < sums.batches:
            continue
        _accumulate(model, batch, sums)
        progress.advance(PHASE, sum(len(row) for row in batch))
        if sums.count - sums.saved >= _CHECKPOINT_TOKENS:
            sums.save(path)
    if not sums.count:
        raise StatisticsError("the covariance corpus holds no token; give covariance.corpus")
    if sums.count < run.tokens:
        progress.line(f"covariance from {sums.count} tokens: the corpus holds no more")
    return sums


def _batches(model: EditableModel, texts: Sequence[str], tokens: int) -> Iterator[list[list[int]]]:
    """Cut the corpus, in its order, into batches that depend on nothing but their content."""
    batch: list[list[int]] = []
    left, longest_read = tokens, min(model.max_positions, _BATCH_TOKENS)
    for text in texts:
        if left <= 0:
            break
        row = list(model.tokenizer(text)["input_ids"])[: min(longest_read, left)]
        if not row:
            continue
        left -= len(row)
        longest = max(len(row), *(len(other) for other in batch)) if batch else len(row)
        if batch and longest * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.no_grad()
def _accumulate(model: EditableModel, batch: Sequence[Sequence[int]], sums: _Sums) -> None:
    ids, lengths = pad_batch(model, batch)
    columns = torch.arange(ids.shape[1], device=model.device)
    where = (columns < lengths[:, None]).nonzero(as_tuple=True)
    top = max(sums.by_layer)
    hidden, part = segment(model, ids, columns.expand(ids.shape), None)
    with captured_keys(model, list(sums.by_layer)) as captured:
        hidden, _ = run_blocks(model, hidden, part, 0, top)
        run_block_at(model, top, [(hidden, part, (where[0], where[1]))])
    for layer, keys in captured.items():
        found = (keys if keys.ndim == 2 else take(keys, where)).to(torch.float64)
        sums.by_layer[layer] += (found.T @ found).cpu()
    sums.count += int(lengths.sum())
    sums.batches += 1


def _corpus_hash(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:".encode() + text.encode())
    return digest.hexdigest()[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

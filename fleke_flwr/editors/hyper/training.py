"""Train a hyper-network: edit a batch, ask afterwards, and go back through the solve by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from fleke_flwr.editors.hyper.checkpoint import Standing, read_standing, write_standing
from fleke_flwr.editors.hyper.lessons import (
    OWN,
    PARAPHRASE,
    Example,
    Lesson,
    LessonSize,
    draw_lesson,
    examples_of,
)
from fleke_flwr.editors.hyper.losses import (
    base_states,
    locality_losses,
    right_tokens,
)
from fleke_flwr.editors.hyper.modules import edited_modules
from fleke_flwr.editors.hyper.network import NETWORKS, HyperNetwork
from fleke_flwr.editors.hyper.normalizer import RunningMoments
from fleke_flwr.editors.hyper.readings import (
    Answered,
    TokenRows,
    answer_losses,
    answered,
    batches,
    joined,
    read_tokens,
)
from fleke_flwr.editors.hyper.settings import TrainingSettings
from fleke_flwr.editors.hyper.storage import save_network
from fleke_flwr.editors.hyper.subjects import SALT, split_by_subject, subject_digest
from fleke_flwr.errors import DataError, StatisticsError
from fleke_flwr.models import EditableModel
from fleke_flwr.models.weights import substituted
from fleke_flwr.progress import Progress
from fleke_flwr.types import EvalCase, Probe

PHASE = "training"
_LEAST = 4
# Requests whose tokens are kept: those of the normaliser, and so few that they fit in memory.
_READ_AHEAD = 2048


@dataclass(frozen=True)
class TrainingOrder:
    """What a network is trained for, and how long.

    Parameters
    ----------
    editor : str
        ``malmen`` or ``mend``.
    layers : tuple[int, ...]
        Edited layers.
    settings : TrainingSettings
        How.
    data : Mapping[str, Any]
        Name and fingerprint of the records, for the card.
    steps : int
        Most steps.
    minutes : float
        Most wall time, that before a resumption included.
    batch_tokens : int
        Upper bound of the tokens in one pass.
    """

    editor: str
    layers: tuple[int, ...]
    settings: TrainingSettings
    data: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 2000
    minutes: float = 10.0
    batch_tokens: int = 16384


@dataclass(frozen=True)
class Scores:
    """What a validation found, on held-out subjects edited at once.

    Parameters
    ----------
    loss : float
        The loss that is trained.
    own, paraphrase : float
        Share of right tokens of the new answers behind the prompt and its paraphrases.
    divergence : float
        Mean ``KL(base | edited)`` on what should stay.
    """

    loss: float
    own: float
    paraphrase: float
    divergence: float

    def line(self) -> str:
        """Say it in one line."""
        return (
            f"loss {self.loss:.3f}, right tokens {self.own:.1%} own, {self.paraphrase:.1%} "
            f"paraphrased, divergence {self.divergence:.3f}"
        )


def train_network(
    model: EditableModel,
    cases: Sequence[EvalCase],
    order: TrainingOrder,
    place: tuple[Path, bool],
    progress: Progress,
) -> Mapping[str, Any]:
    """Train a network on some subjects' records and keep the one that validated best.

    Parameters
    ----------
    model : EditableModel
        Unchanged afterwards.
    cases : Sequence[EvalCase]
        Subjects for training and validation are drawn from these by their hash.
    order : TrainingOrder
        What for, and how long.
    place : tuple[Path, bool]
        Directory of the network and its checkpoint, and whether to go on from the latter. What was
        broken off and goes on ends with the same bits, as long as steps and not minutes end it.
    progress : Progress
        Told of steps, phase ``"training"``, and of every validation.

    Returns
    -------
    Mapping[str, Any]
        The network's card.

    Raises
    ------
    DataError
        If too few subjects are left for training or validation, or there is no checkpoint.
    ConfigError
        If the checkpoint is that of another training.
    """
    directory, resume = place
    settings = order.settings
    shares = {"train": settings.train_share, "validation": settings.validation_share}
    parts = split_by_subject((case.request.subject for case in cases), shares)
    learnt, held = (_about(cases, parts[name]) for name in shares)
    for name, found in (("training", learnt), ("validation", held)):
        if len(found) < _LEAST:
            raise DataError(
                f"{len(found)} records for {name} out of {len(cases)}, and {_LEAST} are needed; "
                "give more records, or a larger share (--set train-share=0.6)"
            )
    progress.line(
        f"{len(learnt)} records of {len(parts['train'])} subjects to train on, {len(held)} of "
        f"{len(parts['validation'])} to validate, {len(cases) - len(learnt) - len(held)} left"
    )
    trained = [subject_digest(name) for part in parts.values() for name in part]
    trainer = Trainer(model, order, examples_of(learnt))
    exam = Exam(trainer, examples_of(held), settings)
    identity = _identity(model, order)
    if resume:
        standing = read_standing(directory, identity, trainer.network, trainer.optimizer)
        progress.line(f"training resumed at step {standing.step} from {directory}")
    else:
        trainer.prepare()
        standing = Standing(best=deepcopy(trainer.network.state_dict()))
        standing.note(0, exam.take(trainer.network), trainer.network)
        progress.line(f"step 0: {Scores(**standing.curve[0]['validation']).line()}")
    _run(trainer, exam, standing, (directory, identity), progress)
    trainer.network.load_state_dict(standing.best)
    card = {
        **identity,
        "model": model.name,
        "split": {
            "salt": SALT,
            "shares": shares,
            "subjects": {name: len(part) for name, part in parts.items()},
            "records": {"train": len(learnt), "validation": len(held)},
        },
        "steps": standing.step,
        "best_step": standing.best_step,
        "seconds": round(standing.seconds, 1),
        "curve": standing.curve,
    }
    save_network(directory, trainer.network, card, trained)
    return card


def _about(cases: Iterable[EvalCase], subjects: Iterable[str]) -> list[EvalCase]:
    known = set(subjects)
    return [case for case in cases if case.request.subject in known]


def _identity(model: EditableModel, order: TrainingOrder) -> dict[str, Any]:
    """Return what must be equal for a training to go on."""
    return {
        "editor": order.editor,
        "fingerprint": model.fingerprint,
        "layers": list(order.layers),
        "tokens": order.settings.tokens,
        "data": dict(order.data),
        "settings": order.settings.to_json(),
    }


def _run(
    trainer: Trainer,
    exam: Exam,
    standing: Standing,
    kept: tuple[Path, Mapping[str, Any]],
    progress: Progress,
) -> None:
    order, settings = trainer.order, trainer.order.settings
    directory, identity = kept
    began = time.monotonic() - standing.seconds
    progress.start(PHASE, order.steps)
    progress.advance(PHASE, standing.step)
    losses: list[float] = []
    while standing.step < order.steps and standing.waited < settings.patience:
        loss = _or_nan(lambda: trainer.step(standing.step))
        if not math.isfinite(loss):
            progress.line(_diverged(f"the loss of step {standing.step + 1}"))
            break
        losses.append(loss)
        standing.step += 1
        progress.advance(PHASE, 1)
        standing.seconds = time.monotonic() - began
        late = standing.seconds >= 60 * order.minutes
        if standing.step % settings.check_every and standing.step < order.steps and not late:
            continue
        scores = exam.take(trainer.network)
        if not math.isfinite(scores.loss):
            progress.line(_diverged(f"the validation loss behind step {standing.step}"))
            break
        standing.note(sum(losses) / len(losses), scores, trainer.network)
        losses.clear()
        progress.line(f"step {standing.step}, {standing.seconds:.0f} s: {scores.line()}")
        write_standing(directory, identity, standing, (trainer.network, trainer.optimizer))
        if late:
            progress.line(f"the {order.minutes:g} minutes are over")
            break


def _or_nan(step: Callable[[], float]) -> float:
    """Return a step's loss; without one, where its ridge cannot be solved any more, NaN."""
    try:
        return step()
    except StatisticsError:
        return math.nan


def _diverged(what: str) -> str:
    return (
        f"{what} is NaN or infinite: training ends here, and the best network so far is kept; "
        "lower --set learning-rate or scalar-rate"
    )


class Trainer:
    """A network with its optimiser and the examples it learns from.

    Parameters
    ----------
    model : EditableModel
        Never changed.
    order : TrainingOrder
        What for.
    examples : Sequence[Example]
        To learn from.
    """

    def __init__(
        self, model: EditableModel, order: TrainingOrder, examples: Sequence[Example]
    ) -> None:
        self.model = model
        self.order = order
        self.examples = examples
        settings = order.settings
        self.modules = edited_modules(order.editor, model, order.layers)
        shapes = {module: model.shape_of(module) for module in self.modules}
        self.network: HyperNetwork = NETWORKS[order.editor](shapes, settings.rank, settings.seed)
        self.network.to(model.working_dtype)
        scalars = [getattr(self.network, name) for name in self.network.scalars]
        self._groups = [list(self.network.stacks.parameters()), scalars]
        self.optimizer = Adam(
            [
                {"params": self._groups[0], "lr": settings.learning_rate},
                {"params": self._groups[1], "lr": settings.scalar_rate},
            ]
        )
        # Read here, and not when they come up: what was read together must not depend on where a
        # training that goes on began.
        own = [Probe(example.prompt, example.targets[0]) for example in examples[:_READ_AHEAD]]
        self._kept = dict(zip(own, self._fresh(own), strict=True))

    def prepare(self) -> None:
        """Pool the normalisers over the requests, once, and set the units of the rates."""
        for module in self.modules:
            keys, gradients = joined(list(self._kept.values()), module)
            moments = RunningMoments(keys.shape[1] + gradients.shape[1])
            moments.update(torch.cat([keys, gradients], dim=1))
            self.network.set_normalizer(module, moments.frozen())
            self.network.set_unit(module, self._unit(module, keys, gradients))

    def _unit(self, module: str, keys: Tensor, gradients: Tensor) -> float:
        """Return the rate with which an untrained network changes outputs by a given share."""
        with torch.no_grad():
            new_keys, new_gradients = self.network.transformed(module, keys, gradients)
        along = (keys * new_keys).sum(dim=1).abs()
        made = float((along * new_gradients.norm(dim=1)).mean())
        weight = self.model.weight_of(module).to(keys)
        return self.order.settings.initial * float((keys @ weight.T).norm(dim=1).mean()) / made

    def rows(self, edits: Sequence[Probe]) -> dict[str, TokenRows]:
        """Return the tokens of edits by module; those of the first examples are known."""
        missing = [edit for edit in edits if edit not in self._kept]
        found = {**self._kept, **dict(zip(missing, self._fresh(missing), strict=True))}
        return {module: joined([found[edit] for edit in edits], module) for module in self.modules}

    def _fresh(self, edits: Sequence[Probe]) -> list[dict[str, TokenRows]]:
        texts = [answered(self.model, edit.prompt, edit.answer) for edit in edits]
        found = read_tokens(
            self.model, self.modules, texts, self.order.settings.tokens, self.order.batch_tokens
        )
        dtype = self.model.working_dtype
        return [
            {
                module: (keys.cpu().to(dtype), g.cpu().to(dtype))
                for module, (keys, g) in rows.items()
            }
            for rows in found
        ]

    def step(self, number: int) -> float:
        """Take one step of the optimiser; return the loss."""
        settings = self.order.settings
        size = LessonSize(settings.edits, settings.judged, settings.alternatives, settings.fewest)
        lesson = draw_lesson(self.examples, size, f"{settings.seed} {number}")
        edits = {
            module: self.network.edit(module, *rows)
            for module, rows in self.rows(lesson.edits).items()
        }
        changes = {module: self._leaf(edit.change) for module, edit in edits.items()}
        loss = self._judge(lesson, changes)
        self.optimizer.zero_grad()
        for module, edit in edits.items():
            upstream = changes[module].grad
            assert upstream is not None  # every module lies on the way to the head
            edit.backward(upstream.cpu())
        for group in self._groups:
            nn.utils.clip_grad_norm_(group, settings.clip)
        self.optimizer.step()
        return loss

    def _leaf(self, change: Tensor) -> Tensor:
        """Return a copy of a change, in the model's number format, that collects its gradient."""
        own = change.to(device=self.model.device, dtype=self.model.dtype, copy=True)
        return own.requires_grad_()

    def _judge(self, lesson: Lesson, changes: Mapping[str, Tensor]) -> float:
        """Add the loss's gradients to the changes, batch by batch; return the loss."""
        settings, model = self.order.settings, self.model
        asked = [answered(model, probe.prompt, probe.answer) for _, probe in lesson.asked]
        kept = [answered(model, probe.prompt, probe.answer) for probe in lesson.kept]
        base = base_states(model, kept, self.order.batch_tokens)
        total = 0.0
        with substituted(model.model, changes), torch.enable_grad():
            for batch in batches(model, asked, self.order.batch_tokens):
                losses = answer_losses(model, [asked[number] for number in batch])
                total += _backward(losses.sum() * (settings.edit_weight / len(asked)))
            for batch in batches(model, kept, self.order.batch_tokens):
                losses = locality_losses(
                    model, [kept[number] for number in batch], [base[number] for number in batch]
                )
                total += _backward(losses.sum() * (settings.locality_weight / len(kept)))
        return total


def _backward(loss: Tensor) -> float:
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


class Exam:
    """One lesson about held-out subjects, the same at every validation.

    Parameters
    ----------
    trainer : Trainer
        Reads tokens and gives the changes.
    examples : Sequence[Example]
        Held out.
    settings : TrainingSettings
        The losses' weights.
    """

    def __init__(
        self, trainer: Trainer, examples: Sequence[Example], settings: TrainingSettings
    ) -> None:
        self.trainer = trainer
        self.settings = settings
        count = min(settings.validated, len(examples))
        size = LessonSize(count, count, 0.0)
        lesson = draw_lesson(examples, size, f"{settings.seed} exam")
        # As many are edited at once as in training; the others only take up room.
        others = trainer.examples[: max(0, settings.edits - count)]
        beside = [Probe(example.prompt, example.targets[0]) for example in others]
        bystanders = trainer.examples[len(others) : len(others) + count]
        kept = [*lesson.kept, *(example.fact for example in bystanders)]
        self.edits = [*lesson.edits, *beside]
        model = trainer.model
        self.lesson = lesson
        self._asked = [answered(model, probe.prompt, probe.answer) for _, probe in lesson.asked]
        self._kept = [answered(model, probe.prompt, probe.answer) for probe in kept]
        self._base = base_states(model, self._kept, trainer.order.batch_tokens)

    @torch.no_grad()
    def take(self, network: HyperNetwork) -> Scores:
        """Edit the held-out requests at once and ask."""
        trainer, model = self.trainer, self.trainer.model
        rows = trainer.rows(self.edits)
        changes = {module: network.edit(module, *tokens).change for module, tokens in rows.items()}
        batch_tokens = trainer.order.batch_tokens
        with substituted(model.model, changes):
            losses, right = self._ask(self._asked)
            divergence = torch.zeros(len(self._kept))
            for batch in batches(model, self._kept, batch_tokens):
                divergence[batch] = (
                    locality_losses(
                        model,
                        [self._kept[number] for number in batch],
                        [self._base[number] for number in batch],
                    )
                    .float()
                    .cpu()
                )
        kinds = [kind for kind, _ in self.lesson.asked]
        apart = float(divergence.mean())
        return Scores(
            loss=self.settings.edit_weight * float(losses.mean())
            + self.settings.locality_weight * apart,
            own=_mean_of(right, kinds, OWN),
            paraphrase=_mean_of(right, kinds, PARAPHRASE),
            divergence=apart,
        )

    def _ask(self, texts: Sequence[Answered]) -> tuple[Tensor, Tensor]:
        losses, right = torch.zeros(len(texts)), torch.zeros(len(texts))
        for batch in batches(self.trainer.model, texts, self.trainer.order.batch_tokens):
            found = right_tokens(self.trainer.model, [texts[number] for number in batch])
            losses[batch], right[batch] = (part.float().cpu() for part in found)
        return losses, right


def _mean_of(values: Tensor, kinds: Sequence[str], wanted: str) -> float:
    chosen = [value for value, kind in zip(values.tolist(), kinds, strict=True) if kind == wanted]
    return sum(chosen) / len(chosen) if chosen else 0.0

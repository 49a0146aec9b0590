"""Edits that have not taken, and what the model says now instead: kept by their own client.

Prompts and answers are a client's records. They are written where the client keeps its files, and
no message carries them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from fleke_flwr.apps.session import Session
from fleke_flwr.artifacts import write_text
from fleke_flwr.evaluation.answers import judge
from fleke_flwr.evaluation.quality import Quality
from fleke_flwr.evaluation.sampling import continue_greedily
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.tokens import target_ids
from fleke_flwr.progress import Silent
from fleke_flwr.types import EditRequest, EvalCase
from fleke_flwr.wire import TrainOrder

ANSWERS = "answers"
_TOKENS = 6
# What base models say, by fingerprint and prompt: the same in every round and variant.
_UNEDITED: dict[tuple[str, str], str] = {}


class FailedEdits:
    """The edits of a client that have not taken, for its own file.

    Parameters
    ----------
    session : Session
        The client; without a directory for its files nothing is looked at.
    order : TrainOrder
        Says which variant and round this is.
    """

    def __init__(self, session: Session, order: TrainOrder) -> None:
        self._session = session
        self._order = order
        self._failed: list[EditRequest] = []
        self._said: dict[str, str] = {}
        self._likely: list[float] = []

    def read(self, cases: Sequence[EvalCase], quality: Quality) -> None:
        """Ask the edited model; call it while the edits are applied.

        Parameters
        ----------
        cases : Sequence[EvalCase]
            The client's own records.
        quality : Quality
            Their measurements, in the same order.
        """
        most = self._session.config.evaluation.failures
        if self._path is None or not most:
            return
        self._failed = [
            case.request
            for case, values in zip(cases, quality.records, strict=True)
            if values["efficacy_top1"] < 1
        ][:most]
        model, batch_tokens = self._session.model, self._session.config.evaluation.batch_tokens
        questions = [(request.text, request.target) for request in self._failed]
        answers = judge(model, questions, batch_tokens, Silent())
        self._likely = [
            math.exp(-answers[question].nll * len(target_ids(model, question[1])))
            for question in questions
        ]
        self._said = _said(model, [text for text, _ in questions], batch_tokens)

    def write(self) -> None:
        """Ask the unedited model, and replace the file; call it when the edits are off again."""
        path, session = self._path, self._session
        if path is None or not session.config.evaluation.failures:
            return
        before = _said_unedited(
            session.model,
            [request.text for request in self._failed],
            session.config.evaluation.batch_tokens,
        )
        lines = [
            {
                "client": session.partition,
                "round": self._order.round,
                "case_id": request.case_id,
                "prompt": request.text,
                "subject": request.subject,
                "wanted": request.target,
                "probability": likely,
                "now": self._said[request.text],
                "before": before[request.text],
            }
            for request, likely in zip(self._failed, self._likely, strict=True)
        ]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    @property
    def _path(self) -> Path | None:
        results = self._session.results
        if results is None:
            return None
        folder = results / ANSWERS / folder_of(self._order.variant)
        return folder / f"client-{self._session.partition}.jsonl"


def folder_of(variant: str) -> str:
    """Return the name of a variant's folder among files that clients keep."""
    return re.sub(r"[^\w.=-]+", "_", variant)


def _said(model: EditableModel, prompts: Sequence[str], batch_tokens: int) -> dict[str, str]:
    """Return what the model says next, on one line."""
    said = continue_greedily(model, prompts, _TOKENS, batch_tokens)
    return {prompt: " ".join(answer.split()) for prompt, answer in said.items()}


def _said_unedited(
    model: EditableModel, prompts: Sequence[str], batch_tokens: int
) -> dict[str, str]:
    new = [prompt for prompt in prompts if (model.fingerprint, prompt) not in _UNEDITED]
    for prompt, answer in _said(model, new, batch_tokens).items():
        _UNEDITED[model.fingerprint, prompt] = answer
    return {prompt: _UNEDITED[model.fingerprint, prompt] for prompt in prompts}

"""Say before a run what will happen: everything that is wrong, and what it will cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fleke_flwr.apps import preflight
from fleke_flwr.apps.checking.forecast import (
    ENCODINGS,
    Messages,
    capacity,
    covariances,
    memory_needed,
    sent_kind,
)
from fleke_flwr.apps.checking.model import ModelFindings, ask_model
from fleke_flwr.apps.checking.records import Placed, RecordFindings, read_records
from fleke_flwr.apps.checking.view import show
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.apps.session import Session
from fleke_flwr.apps.terminal import progress_view
from fleke_flwr.artifacts import write_json
from fleke_flwr.config import RunConfig, parse_overrides
from fleke_flwr.editors.covariance import corpus_texts
from fleke_flwr.errors import FlekeError
from fleke_flwr.models.loading import EditableModel, load_model
from fleke_flwr.progress import Progress
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EvalCase

Dealt = Sequence[Sequence[Sequence[EvalCase]]]


def run_check(
    source: str, model: str, overrides: Sequence[str], output: Path | None, console: Console
) -> int:
    """Check records against a model and the settings of a run; print it, and write it if asked.

    Parameters
    ----------
    source : str
        A file, ``embedded`` or ``hub:owner/name``.
    model : str
        A directory or hub name; empty for the one of the settings.
    overrides : Sequence[str]
        ``key=value`` pairs.
    output : Path or None
        A JSON file.
    console : Console
        Where to print.

    Returns
    -------
    int
        0 if a run would start, 1 if it would be refused.

    Raises
    ------
    ConfigError
        If a setting is wrong.
    """
    chosen = {**parse_overrides(overrides), "data.path": source}
    if model:
        chosen["model.name"] = model
    config = RunConfig.from_flat(chosen)
    with progress_view(console) as progress:
        content = examine(config, progress)
    if output is not None:
        write_json(output.expanduser(), content)
    show(content, console)
    return 0 if content["would_start"] else 1


def examine(config: RunConfig, progress: Progress) -> dict[str, Any]:
    """Return all that can be said before a run, as JSON; ``reasons`` are why it would be refused.

    Sections that need what is not there, such as a model that cannot be loaded, are left out.
    """
    records = read_records(config.data)
    work = _Check(config, records, progress, reasons=list(records.wrong))
    content: dict[str, Any] = {
        "schema": 1,
        "source": config.data.path,
        "model": config.model.name,
        "records": records.summary(),
    }
    if not work.reasons:
        work.refuses(lambda: preflight.check(config))
    content.update(work.sections())
    return {**content, "would_start": not work.reasons, "reasons": work.reasons}


@dataclass
class _Check:
    """What is known so far, and why a run would be refused."""

    config: RunConfig
    records: RecordFindings
    progress: Progress
    reasons: list[str] = field(default_factory=list)

    def refuses(self, action: Any) -> Any:
        """Return what an action returns, or ``None`` and a reason more."""
        try:
            return action()
        except FlekeError as error:
            if str(error) not in self.reasons:
                self.reasons.append(str(error))
            return None

    def sections(self) -> dict[str, Any]:
        """Return what a model and the settings say about the records."""
        config = self.config
        model: EditableModel | None = self.refuses(lambda: load_model(config.model))
        if model is None:
            return {}
        spec: EditSpec | None = self.refuses(lambda: resolve_recipe(config, model))
        if spec is None:
            return {}
        widths = self.refuses(lambda: tuple(model.input_width(layer) for layer in spec.layers))
        if widths is None:
            return {}
        if self.reasons == self.records.wrong:
            self.refuses(lambda: corpus_texts(model, config.covariance))
        dealt = self._dealt(model)
        edited = self._edited(dealt)
        batch_tokens = config.evaluation.batch_tokens
        tokens = ask_model(model, spec.contexts, edited, batch_tokens, self.progress)
        self.reasons += [
            f"{config.data.path}, {place}: {why}" for place, why in tokens.refused.items()
        ]
        is_float64 = model.dtype == torch.float64
        kind = self.refuses(lambda: sent_kind(config)) or ""
        messages = Messages(config, kind, widths, model.d_model, is_float64)
        edits = sum(len(cases) for part in dealt for cases in part) or len(edited)
        return {
            "fingerprint": model.fingerprint,
            "tokens": {"asked": len(edited), **tokens.summary()},
            "shares": self._shares(dealt, edited, messages, tokens),
            "payload": self._payload(messages),
            "memory": memory_needed(config, model, spec),
            "capacity": capacity(edits, widths),
            "covariance": covariances(config, model, spec),
        }

    def _dealt(self, model: EditableModel) -> Dealt:
        """Return the records by client and round; nothing if the run is refused."""
        if self.reasons:
            return []
        session = Session(self.config, model, 0, self.config.clients, own_data=False)
        return self.refuses(lambda: session.everybody(self.config.rounds)) or []

    def _edited(self, dealt: Dealt) -> list[Placed]:
        """Return the usable records that some client gets, or all where none could be dealt."""
        asked = {_question(case) for part in dealt for cases in part for case in cases}
        return [
            placed for placed in self.records.usable if not dealt or _question(placed.case) in asked
        ]

    def _shares(
        self,
        dealt: Dealt,
        edited: Sequence[Placed],
        messages: Messages,
        tokens: ModelFindings,
    ) -> list[dict[str, Any]]:
        """Say what every client gets and sends in every round."""
        begins = {
            _question(placed.case): tokens.beginnings.get(placed.place, placed.place)
            for placed in edited
        }
        found = []
        for client, part in enumerate(dealt):
            edits = [len(cases) for cases in part]
            keys = [len({begins[_question(case)] for case in cases}) for cases in part]
            sizes = {encoding: messages.by_round(edits, encoding) for encoding in ENCODINGS}
            found.append(
                {
                    "client": client,
                    "rounds": edits,
                    "bytes": sizes if messages.kind else {},
                    "equal_keys": sum(edits) - sum(keys),
                }
            )
        return found

    def _payload(self, messages: Messages) -> Mapping[str, Any]:
        config = self.config
        return {
            "strategy": config.strategy_names[0],
            "editor": config.editor_names[0],
            "mode": config.mode,
            "kind": messages.kind,
            "encoding": config.encoding,
            "dtype": config.payload_dtype,
            "numbers": messages.formula,
            "letters": messages.letters,
        }


def _question(case: EvalCase) -> tuple[str, str]:
    return case.request.prompt, case.request.subject

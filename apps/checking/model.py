"""What a model makes of records before they are edited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fleke_flwr.apps.checking.records import Placed
from fleke_flwr.editors.rows import target_rows
from fleke_flwr.errors import RequestError
from fleke_flwr.evaluation.answers import judge
from fleke_flwr.evaluation.records import questions
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.tokens import (
    check_length,
    encode,
    encode_with_spans,
    fill,
    target_ids,
)
from fleke_flwr.progress import Progress
from fleke_flwr.types import EvalCase

# More special tokens than any tokenizer puts around a text.
_SPECIAL = 8


@dataclass(frozen=True)
class ModelFindings:
    """What a model makes of the records.

    Parameters
    ----------
    refused : dict[str, str]
        By place: why this model cannot be edited with the record.
    shared_tokens : tuple[str, ...]
        Places of records whose subject ends inside a token, which belongs to what follows, too.
    lengths : dict[int, int]
        How many targets have how many tokens.
    known : tuple[str, ...]
        Places of records whose target is the model's first choice already.
    beginnings : dict[str, tuple[int, ...]]
        By place: the tokens up to the subject's last. Where two are equal, so are their keys.
    """

    refused: dict[str, str]
    shared_tokens: tuple[str, ...]
    lengths: dict[int, int]
    known: tuple[str, ...]
    beginnings: dict[str, tuple[int, ...]]

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return {
            "refused": self.refused,
            "subject_ends_inside_a_token": list(self.shared_tokens),
            "target_tokens": {str(size): self.lengths[size] for size in sorted(self.lengths)},
            "known": list(self.known),
        }


def ask_model(
    model: EditableModel,
    contexts: Sequence[str],
    records: Sequence[Placed],
    batch_tokens: int,
    progress: Progress,
) -> ModelFindings:
    """Tokenize records as an edit and its evaluation would, and ask the model for the targets.

    Parameters
    ----------
    model : EditableModel
        Without any update.
    contexts : Sequence[str]
        The shared prefixes, with which texts are longest.
    records : Sequence[Placed]
        May be empty.
    batch_tokens : int
        Upper bound of the tokens in one forward pass.
    progress : Progress
        Told of the phase ``evaluate``.
    """
    refused: dict[str, str] = {}
    shared: list[str] = []
    lengths: Counter[int] = Counter()
    beginnings: dict[str, tuple[int, ...]] = {}
    for placed in records:
        case, place = placed.case, placed.place
        try:
            bare = target_rows(model, 0, case.request, contexts)[0]
            _check_probes(model, case)
        except RequestError as error:
            refused[place] = str(error)
        except (StopIteration, ValueError):
            refused[place] = (
                f"subject {case.request.subject!r} or target {case.request.target!r} has no token "
                f"of its own in {case.request.text!r}: this model's tokenizer drops it"
            )
        else:
            lengths[len(bare.labels)] += 1
            beginnings[place] = bare.ids[: bare.position + 1]
            if _ends_inside(model, case, bare.position):
                shared.append(place)
    asked = {
        placed.place: (placed.case.request.text, placed.case.request.target)
        for placed in records
        if placed.place not in refused
    }
    answers = judge(model, asked.values(), batch_tokens, progress)
    known = tuple(place for place, question in asked.items() if answers[question].is_top)
    return ModelFindings(refused, tuple(shared), dict(lengths), known, beginnings)


def _check_probes(model: EditableModel, case: EvalCase) -> None:
    """Refuse what is too long to be judged; a token has a byte at least, which spares most texts.

    Raises
    ------
    RequestError
        Naming the prompt.
    """
    for prompt, answer in questions(case):
        if len(f"{prompt}{answer}".encode()) + _SPECIAL <= model.max_positions:
            continue
        length = len(encode(model, prompt)) + len(target_ids(model, answer)) - 1
        check_length(model, prompt, answer, length)


def _ends_inside(model: EditableModel, case: EvalCase, position: int) -> bool:
    text, end = fill(case.request.prompt, case.request.subject)
    _, spans = encode_with_spans(model, text)
    return spans[position][1] > end

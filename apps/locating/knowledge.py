"""Which facts a model knows: only those can be traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fleke_flwr.apps.locating.records import Record
from fleke_flwr.errors import DataError
from fleke_flwr.evaluation.answers import judge
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.progress import Progress, Silent

PHASE = "asking"
_AT_ONCE = 64


@dataclass(frozen=True)
class Knowledge:
    """What came of asking a model for facts.

    Parameters
    ----------
    known : list[Record]
        Those whose answer it gives, or that bring none.
    unknown : list[Record]
        Those that it answers otherwise.
    """

    known: list[Record] = field(default_factory=list)
    unknown: list[Record] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many facts it was asked for."""
        return len(self.known) + len(self.unknown)


def ask(
    model: EditableModel, records: Sequence[Record], limit: int, progress: Progress
) -> Knowledge:
    """Ask for facts, in order, until enough are known.

    A fact is known if every token of its answer is the most likely one behind those before it.
    ROME's code compares the first token, decoded, with the whole answer, which leaves out every
    answer of several tokens.

    Parameters
    ----------
    limit : int
        How many known facts are enough; 0 asks for all.
    progress : Progress
        Told of the phase ``asking``, in facts.

    Raises
    ------
    DataError
        If the model knows none of them.
    """
    found = Knowledge()
    total = min(limit, len(records)) if limit else len(records)
    progress.start(PHASE, total)
    for start in range(0, len(records), _AT_ONCE):
        part = records[start : start + _AT_ONCE]
        questions = [(item.fact.text, item.fact.answer) for item in part if item.fact.answer]
        answers = judge(model, questions, batch_tokens=16384, progress=Silent())
        before = len(found.known)
        for item in part:
            if limit and len(found.known) == limit:
                break
            answer = answers.get((item.fact.text, item.fact.answer))
            (found.known if answer is None or answer.is_top else found.unknown).append(item)
        progress.advance(PHASE, len(found.known) - before if limit else len(part))
        if limit and len(found.known) == limit:
            return found
    if not found.known:
        first = found.unknown[0]
        raise DataError(
            f"model {model.name!r} knows none of the {found.asked} facts, so that there is nothing "
            f"to trace: {first.place}, for one, is not answered with {first.fact.answer!r}; give "
            "facts that it knows, or leave the answers out to trace what it says itself"
        )
    if limit:
        progress.advance(PHASE, total - len(found.known))
    return found

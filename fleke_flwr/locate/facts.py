"""A fact to trace, and where its subject lies among the tokens of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleke_flwr.errors import RequestError
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.models.tokens import SLOT, encode_with_spans, fill, last_token_before


@dataclass(frozen=True)
class Fact:
    """Something that a model may know.

    Parameters
    ----------
    name : str
        Of the record; unique inside a data set.
    template : str
        Prompt with exactly one ``{}`` where the subject goes.
    subject : str
        What the fact is about.
    answer : str
        What counts as right, without a leading space; empty where the model's own answer counts.
    """

    name: str
    template: str
    subject: str
    answer: str = ""

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.template.replace(SLOT, self.subject)


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt.

    Parameters
    ----------
    ids : tuple[int, ...]
        Token ids, with the special tokens that the model expects in front.
    tokens : tuple[str, ...]
        The characters each of them covers; special tokens go by their names.
    start, stop : int
        The subject's tokens are those from ``start`` to ``stop - 1``.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    start: int
    stop: int


def prompt_of(model: EditableModel, fact: Fact) -> Prompt:
    """Tokenise a fact's prompt and find its subject by character offsets.

    ROME's code decodes the tokens one by one and looks the subject up in the joined text, which
    special tokens and cleaned-up spaces can shift; offsets cannot be.

    Raises
    ------
    RequestError
        If the template has not exactly one slot, the subject is empty, the text is too long, or the
        tokenizer makes nothing of the subject.
    """
    if not fact.subject.strip():
        raise RequestError(f"fact {fact.name!r}: the subject is empty; name what the fact is about")
    text, end = fill(fact.template, fact.subject)
    begin = end - len(fact.subject)
    ids, spans = encode_with_spans(model, text)
    last = last_token_before(spans, end, fact.subject)
    first = next(i for i, (start, stop) in enumerate(spans) if stop > max(start, begin))
    return Prompt(tuple(ids), _shown(model, text, ids, spans), first, last + 1)


def _shown(
    model: EditableModel, text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]]
) -> tuple[str, ...]:
    """Return the characters of each token, none twice, and the names of special tokens."""
    shown, done = [], 0
    for name, (start, stop) in zip(
        model.tokenizer.convert_ids_to_tokens(list(ids)), spans, strict=True
    ):
        shown.append(text[max(start, done) : stop] if stop > start else str(name))
        done = max(done, stop)
    return tuple(shown)

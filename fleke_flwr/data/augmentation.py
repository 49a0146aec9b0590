"""Strengthen an edit that has won a conflict by further requests about the same fact.

CollabEdit (arXiv 2410.09508) lets the client whose edit survives a conflict augment it by
"multi-label editing" or related knowledge. In its released code (``evaluate_augmentation.py``)
that is a request for each true object of the record, under one prompt and one subject, so that the
target competes with objects that nobody asked for: requests with equal keys are fitted by the mean
of their targets. Here every further request wants the target. With ``n`` requests of equal keys
``k``, ``q = k^T C^{-1} k`` and the residual ``r``, the solved edit moves the output by
``n q / (1 + n q) r``, so that more of them push it further.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle, islice, product
from pathlib import Path

from fleke_flwr.registry import Registry
from fleke_flwr.templates import Templates, read_templates
from fleke_flwr.types import EditRequest, EvalCase

# No facts, no names, and a full stop at the end, so that any template can follow.
_OPENINGS = (
    "Please take note of the following.",
    "There has been a correction.",
    "This has been checked once more.",
    "Here is what the records say.",
    "The question came up again today.",
)


class Augmentation(ABC):
    """A way to make further requests of one; it has no settings."""

    @abstractmethod
    def augment(self, request: EditRequest, known: Templates, count: int) -> list[EditRequest]:
        """Return exactly ``count`` further requests for the same subject and target.

        Parameters
        ----------
        request : EditRequest
            The edit that won.
        known : Templates
            Templates by relation that may be used; see :func:`known_templates`.
        count : int
            How many are wanted.
        """


class Paraphrase(Augmentation):
    """Other templates of the relation in their order, again from the first where they run out.

    Without any the request is repeated.
    """

    def augment(self, request: EditRequest, known: Templates, count: int) -> list[EditRequest]:
        """Return one request per template."""
        return _further(request, _others(request, known) or [request.prompt], count)


class Related(Augmentation):
    """The request's own and the other templates of the relation, each behind a neutral sentence.

    The sentences state no fact. One that did, such as the same fact in other words, would tell the
    answer before it is asked for, and a target vector that is optimised behind it could leave the
    answer to be copied; other relations of the subject have other objects. The subject's slot stays
    its only mention. All templates follow the first sentence before any follows the second.
    """

    def augment(self, request: EditRequest, known: Templates, count: int) -> list[EditRequest]:
        """Return one request per sentence and template."""
        prompts = [request.prompt, *_others(request, known)]
        openings = product(_OPENINGS, prompts)
        return _further(request, [f"{opening} {prompt}" for opening, prompt in openings], count)


class Repeat(Augmentation):
    """The request as it is."""

    def augment(self, request: EditRequest, known: Templates, count: int) -> list[EditRequest]:
        """Return copies."""
        return _further(request, [request.prompt], count)


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation",
    Augmentation,  # type: ignore[type-abstract]  # only ever compared with
    "fleke_flwr.augmentations",
)
AUGMENTATIONS.add("paraphrase", "fleke_flwr.data.augmentation:Paraphrase")
AUGMENTATIONS.add("related", "fleke_flwr.data.augmentation:Related")
AUGMENTATIONS.add("repeat", "fleke_flwr.data.augmentation:Repeat")


def known_templates(path: str, requests: Iterable[EditRequest]) -> dict[str, tuple[str, ...]]:
    """Return the templates that a client may phrase its edits in, by relation.

    Parameters
    ----------
    path : str
        A JSON file of lists by relation; empty for the different prompts of the requests, in
        their order. Requests without a relation give none.
    requests : Iterable[EditRequest]
        The client's own. Their probes give no templates: they judge the edit.

    Raises
    ------
    DataError
        If the file cannot be used.
    """
    if path:
        return read_templates(Path(path).expanduser())
    found: dict[str, dict[str, None]] = {}
    for request in requests:
        if request.relation:
            found.setdefault(request.relation, {})[request.prompt] = None
    return {relation: tuple(prompts) for relation, prompts in found.items()}


def not_judging(known: Templates, case: EvalCase) -> dict[str, tuple[str, ...]]:
    """Return the templates of the record's relation in which no paraphrase of it is written.

    What is a phrasing of one subject's edit can be the held-out one of another's: in the embedded
    world every relation has eight, of which each fact hides two. An edit that is strengthened with
    the phrasing that judges it would be judged by what it was trained on.
    """
    request = case.request
    return {
        request.relation: tuple(
            template
            for template in known.get(request.relation, ())
            if not any(template.replace("{}", request.subject) in text for text in case.paraphrases)
        )
    }


def _others(request: EditRequest, known: Templates) -> list[str]:
    return [prompt for prompt in known.get(request.relation, ()) if prompt != request.prompt]


def _further(request: EditRequest, prompts: Sequence[str], count: int) -> list[EditRequest]:
    return [
        replace(request, case_id=f"{request.case_id}-more{number}", prompt=prompt)
        for number, prompt in enumerate(islice(cycle(prompts), count), start=1)
    ]

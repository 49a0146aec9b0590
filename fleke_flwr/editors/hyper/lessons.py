"""What one step of the training edits, asks for, and wants to stay."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleke_flwr.types import EvalCase, Probe

OWN, PARAPHRASE = "own", "paraphrase"


@dataclass(frozen=True)
class Example:
    """One record to learn editing from.

    Parameters
    ----------
    prompt : str
        The request's text, subject filled in.
    targets : tuple[str, ...]
        Its target, then those of other examples that ask the same of other subjects.
    paraphrases : tuple[str, ...]
        Other phrasings of the fact.
    fact : Probe
        What is known so far; with the target for an answer where that is not said.
    unrelated : tuple[Probe, ...]
        What must stay: neighbours, zsRE's ``loc``, other facts of the subject.
    """

    prompt: str
    targets: tuple[str, ...]
    paraphrases: tuple[str, ...]
    fact: Probe
    unrelated: tuple[Probe, ...]


@dataclass(frozen=True)
class Lesson:
    """One batch of edits and what is asked afterwards.

    Parameters
    ----------
    edits : tuple[Probe, ...]
        Prompts with their new answers.
    asked : tuple[tuple[str, Probe], ...]
        Kind (``own`` or ``paraphrase``), prompt and new answer.
    kept : tuple[Probe, ...]
        Prompts whose answers must stay.
    """

    edits: tuple[Probe, ...]
    asked: tuple[tuple[str, Probe], ...]
    kept: tuple[Probe, ...]


def examples_of(cases: Sequence[EvalCase]) -> list[Example]:
    """Turn records into examples; alternative targets come from these records alone."""
    asked: Mapping[str, list[str]] = _targets(cases)
    return [_example(case, asked[_question(case)]) for case in cases]


def _question(case: EvalCase) -> str:
    return case.request.relation or case.request.prompt


def _targets(cases: Iterable[EvalCase]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.request.target not in found[_question(case)]:
            found[_question(case)].append(case.request.target)
    return found


def _example(case: EvalCase, alternatives: Sequence[str]) -> Example:
    request = case.request
    others = [item for item in alternatives if item not in (request.target, request.original)]
    neighbors = [Probe(prompt, request.original) for prompt in case.neighbors if request.original]
    return Example(
        prompt=request.text,
        targets=(request.target, *others),
        paraphrases=case.paraphrases,
        fact=Probe(request.text, request.original or request.target),
        unrelated=(*neighbors, *case.locality, *case.same_subject),
    )


@dataclass(frozen=True)
class LessonSize:
    """How large lessons are.

    Parameters
    ----------
    edits : int
        Requests edited at once.
    judged : int
        How many of them the loss asks about; the gradient is that of all, on average.
    alternatives : float
        Share of the edits that take another example's target.
    fewest : int
        Where above 0, the number of edits is drawn between this and ``edits``, every ratio as
        likely as any other.
    """

    edits: int
    judged: int
    alternatives: float
    fewest: int = 0

    def drawn(self, rng: random.Random) -> int:
        """Draw how many requests one lesson edits."""
        if not self.fewest:
            return self.edits
        ratio = self.edits / self.fewest
        return round(self.fewest * math.exp(rng.random() * math.log(ratio)))


def draw_lesson(examples: Sequence[Example], size: LessonSize, seed: str) -> Lesson:
    """Draw a lesson that depends on the seed alone, so that training can go on anywhere.

    For every judged edit its own prompt and a paraphrase are asked, and an unrelated prompt and
    a fact that is not edited (a *bystander*, which the papers do not have) must stay.
    """
    rng = random.Random(seed)
    chosen = rng.sample(range(len(examples)), min(size.drawn(rng), len(examples)))
    edits = []
    for number in chosen:
        targets = examples[number].targets
        other = len(targets) > 1 and rng.random() < size.alternatives
        edits.append(
            Probe(examples[number].prompt, rng.choice(targets[1:]) if other else targets[0])
        )
    taken = {edit.prompt for edit in edits}
    free = [example.fact for example in examples if example.prompt not in taken]
    asked: list[tuple[str, Probe]] = []
    kept: list[Probe] = []
    for number, edit in list(zip(chosen, edits, strict=True))[: size.judged]:
        example = examples[number]
        asked.append((OWN, edit))
        if example.paraphrases:
            asked.append((PARAPHRASE, Probe(rng.choice(example.paraphrases), edit.answer)))
        if example.unrelated:
            kept.append(rng.choice(example.unrelated))
        if free:
            kept.append(rng.choice(free))
    return Lesson(tuple(edits), tuple(asked), tuple(kept))

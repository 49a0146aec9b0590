"""Which measurements are shown, by the protocol the records allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleke_flwr.apps.results import OWN, Rows, measured


@dataclass(frozen=True)
class Protocol:
    """How edits are judged.

    Parameters
    ----------
    name : str
        What it is called.
    score : str
        The metric that sums it up.
    parts : Mapping[str, str]
        Titles of what the score is made of.
    others : Mapping[str, str]
        Titles of what is shown beside it.
    note : str
        What the titles mean.
    """

    name: str
    score: str
    parts: Mapping[str, str]
    others: Mapping[str, str]
    note: str

    @property
    def summed(self) -> dict[str, str]:
        """Titles of the score and its parts."""
        return {self.score: "Score", **self.parts}

    @property
    def metrics(self) -> dict[str, str]:
        """Titles of everything, in order."""
        return {**self.summed, **self.others}


COUNTERFACT = Protocol(
    "CounterFact",
    "score",
    {"efficacy": "ES", "paraphrase": "PS", "neighborhood": "NS"},
    {
        "efficacy_top1": "EA",
        "paraphrase_top1": "PA",
        "neighborhood_top1": "NA",
        "same_subject": "same subject",
    },
    "CounterFact protocol. ES, PS, NS: share of prompts on which the wanted answer is the more "
    "probable one (edit prompt, paraphrases, neighbourhood). Score: their harmonic mean. "
    "EA, PA, NA: the wanted answer is the model's first choice. Same subject: the first choice is "
    "right on the subject's other facts.",
)
ZSRE = Protocol(
    "zsRE, by token",
    "score_tokens",
    {"efficacy_tokens": "EA", "paraphrase_tokens": "PA", "neighborhood_tokens": "NA"},
    {},
    "zsRE protocol. EA, PA, NA: share of the answer's tokens that are the model's first choice, "
    "given those before (edit prompt, paraphrases, neighbourhood). Score: their harmonic mean.",
)
GENERATED = {"ngram_entropy": "NE", "reference_score": "RS"}
GENERATED_NOTE = (
    "NE (fluency): entropy of n-grams in texts the model writes, in hundredths of a bit. "
    "RS (consistency): cosine between these texts and references, in percent."
)


def protocol_of(rows: Rows) -> Protocol:
    """Return zsRE's protocol if the records allow its score only, else CounterFact's."""
    scores = {
        protocol.score
        for protocol in (COUNTERFACT, ZSRE)
        if any(measured(row, OWN).get(protocol.score) is not None for row in rows)
    }
    return ZSRE if scores == {ZSRE.score} else COUNTERFACT


def generated(rows: Rows) -> dict[str, str]:
    """Return the titles of those measurements of written texts that were made."""
    return {
        metric: title
        for metric, title in GENERATED.items()
        if any(measured(row, OWN).get(metric) is not None for row in rows)
    }

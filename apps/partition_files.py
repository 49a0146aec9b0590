"""Write a client's records as the JSON Lines file that a SuperNode of its own reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from fleke_flwr.types import EvalCase, Probe

_LISTS = ("paraphrases", "neighbors", "attributes", "generations", "references")
_PROBES = ("same_subject", "locality")


def record_lines(cases: Iterable[EvalCase], protocol: str, owner: str) -> str:
    """Return one JSON object a line, which ``load_cases`` reads back to equal cases.

    Parameters
    ----------
    cases : Iterable[EvalCase]
        In the order of the file.
    protocol : str
        Of their source. Records of zsRE are written in zsRE's schema, by which the reader knows
        how to judge them, all others with the fields of ``EvalCase``.
    owner : str
        The field that names the owner (``data.owner``).
    """
    write = _zsre if protocol == "zsre" else _user
    lines = (json.dumps(_owned(write(case), case, owner), ensure_ascii=False) for case in cases)
    return "".join(f"{line}\n" for line in lines)


def _user(case: EvalCase) -> dict[str, Any]:
    request = case.request
    record: dict[str, Any] = {
        "case_id": request.case_id,
        "prompt": request.prompt,
        "subject": request.subject,
        "target": request.target,
        "original": request.original,
        "relation": request.relation,
        "rival": case.rival,
    }
    record.update({name: list(getattr(case, name)) for name in _LISTS})
    record.update({name: _probes(getattr(case, name)) for name in _PROBES})
    return {name: value for name, value in record.items() if value}


def _zsre(case: EvalCase) -> dict[str, Any]:
    request = case.request
    (paraphrase,), (unrelated,) = case.paraphrases, case.locality
    # Edited to the true answer (data.zsre-target), a question keeps no other one.
    answer, alternative = (
        (request.original, request.target) if request.original else (request.target, "")
    )
    return {
        "case_id": request.case_id,
        "subject": request.subject,
        "src": request.text,
        "answers": [answer],
        "alt": alternative,
        "rephrase": paraphrase,
        "loc": unrelated.prompt.removesuffix("?"),
        "loc_ans": unrelated.answer,
    }


def _owned(record: dict[str, Any], case: EvalCase, owner: str) -> dict[str, Any]:
    return {**({owner: case.owner} if case.owner else {}), **record}


def _probes(probes: Sequence[Probe]) -> list[dict[str, str]]:
    return [{"prompt": probe.prompt, "target": probe.answer} for probe in probes]

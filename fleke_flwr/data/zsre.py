"""Read one record of zsRE, the question-answering set in the form that MEND published.

Its fields are ``subject``, ``src`` (the question), ``answers`` (true ones), ``alt`` (another
answer), ``rephrase``, ``loc`` and ``loc_ans`` (an unrelated question with its answer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleke_flwr.config import DataConfig
from fleke_flwr.data import fields
from fleke_flwr.errors import RequestError
from fleke_flwr.types import EditRequest, EvalCase, Probe

EMPTY_ALTERNATIVE = "empty alternative answer"
TRUE_ALTERNATIVE = "alternative answer is a true one"

ZSRE_FIELDS = frozenset(("src", "answers", "alt", "rephrase", "loc", "loc_ans"))
_OTHERS = frozenset(("prompt", "requested_rewrite"))


def is_zsre(record: Mapping[str, Any]) -> bool:
    """Whether a record has fields of zsRE, and no prompt of another schema."""
    return not ZSRE_FIELDS.isdisjoint(record) and _OTHERS.isdisjoint(record)


def read_zsre(record: Mapping[str, Any], number: int, data: DataConfig) -> EvalCase | str:
    """Turn a question into an edit, or say why it cannot be one.

    Departs from MEMIT's reader (Meng et al. 2023, ``dsets/zsre.py``) in four points. It edits to
    ``alt`` unless ``data.zsre_target`` asks for the true answer, as MEMIT does. Only the first
    place where the subject stands becomes the slot, since a prompt has one. The original answer is
    the true one, or unknown, not a placeholder. The unrelated question keeps its whole answer, so
    records do not depend on a tokenizer.

    Parameters
    ----------
    record : Mapping
        One JSON object.
    number : int
        Its place in the file, which names a record without ``case_id``.
    data : DataConfig
        Says which answer is the target, and which field names the owner.

    Returns
    -------
    EvalCase or str
        The case, or the reason for which the record is to be left out and counted: its ``alt`` is
        empty, or one of its true answers.

    Raises
    ------
    RequestError
        If a field is missing or of the wrong type, or the question does not name its subject.
    """
    subject, question = fields.filled_text(record, "subject"), fields.text(record, "src")
    if subject not in question:
        raise RequestError(
            f"question {question!r} does not hold its subject {subject!r}; correct one of them"
        )
    answers = [answer.strip() for answer in fields.texts(record, "answers")]
    if not answers:
        raise RequestError("field 'answers' is empty; a list of texts is needed")
    paraphrase = fields.filled_text(record, "rephrase")
    unrelated = Probe(
        fields.filled_text(record, "loc") + "?", fields.filled_text(record, "loc_ans").strip()
    )
    alternative = fields.text(record, "alt").strip()
    if data.zsre_target == "answers":
        target, original = answers[0], ""
    elif not alternative:
        return EMPTY_ALTERNATIVE
    elif alternative in answers:
        return TRUE_ALTERNATIVE
    else:
        target, original = alternative, answers[0]
    request = EditRequest(
        case_id=fields.identifier(record, "case_id", str(number)),
        prompt=question.replace(subject, "{}", 1),
        subject=subject,
        target=target,
        original=original,
    )
    return EvalCase(
        request=request,
        paraphrases=(paraphrase,),
        locality=(unrelated,),
        owner=fields.identifier(record, data.owner, ""),
    )

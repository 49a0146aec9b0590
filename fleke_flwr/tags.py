"""Names for edits that say nothing by themselves and are equal for equal edits.

Clients compare edits by tags instead of text. A tag is a keyed hash: without the key nobody can
test a guess. Clients of a deployment share a key that the server does not have (``tag-key`` in the
node configuration); where there is none, anybody who guesses the question can confirm it, as with
the key space of the statistics (see "privacy" in the documentation).
"""

from __future__ import annotations

import hashlib
import hmac

from fleke_flwr.types import EditRequest

_LENGTH = 32


def question_tag(request: EditRequest, key: str) -> str:
    """Name what is asked: the subject with its relation, or with its prompt if that is unknown."""
    return _tag("question", key, request.subject, request.relation or request.prompt)


def edit_tag(request: EditRequest, key: str) -> str:
    """Name the question together with its answer, as ``question:answer``."""
    return f"{question_tag(request, key)}:{_tag('answer', key, request.target)}"


def question_of(tag: str) -> str:
    """Return the part of an edit's tag that names its question."""
    return tag.partition(":")[0]


def _tag(kind: str, key: str, *texts: str) -> str:
    spoken = "\x00".join([kind, *(" ".join(text.casefold().split()) for text in texts)])
    return hmac.new(key.encode(), spoken.encode(), hashlib.sha256).hexdigest()[:_LENGTH]

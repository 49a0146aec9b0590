"""Keeping what a network is trained on apart from what is edited, by subject."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from fleke_flwr.errors import ConfigError
from fleke_flwr.types import EvalCase

SALT = "fleke-flwr"
_DIGITS = 15


def subject_digest(subject: str, salt: str = SALT) -> int:
    """Return a number below 2 ** 60 for a subject, whatever its case and the space around it."""
    text = f"{salt}\n{subject.strip().casefold()}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:_DIGITS], 16)


def split_by_subject(
    subjects: Iterable[str], shares: Mapping[str, float], salt: str = SALT
) -> dict[str, list[str]]:
    """Deal subjects out over named parts by their hash; what no share covers is left out.

    A subject's part depends on nothing but its name, the shares and the salt: more records, or
    another order, move none.

    Parameters
    ----------
    subjects : Iterable[str]
        May repeat; each is returned once, in order.
    shares : Mapping[str, float]
        Share of the subjects by name of the part.
    salt : str
        Another one gives another split.

    Raises
    ------
    ConfigError
        If a share is negative, or they sum up to more than one.
    """
    if min(shares.values(), default=0) < 0 or sum(shares.values()) > 1 + 1e-9:
        raise ConfigError(f"shares {dict(shares)}: each from 0, and at most 1 together")
    parts: dict[str, list[str]] = {name: [] for name in shares}
    for subject in dict.fromkeys(subjects):
        place = subject_digest(subject, salt) / 16**_DIGITS
        edge = 0.0
        for name, share in shares.items():
            edge += share
            if place < edge:
                parts[name].append(subject)
                break
    return parts


def without_trained(
    cases: Sequence[EvalCase], trained: Collection[int]
) -> tuple[list[EvalCase], int]:
    """Return the records about subjects that a network has never seen, and how many are dropped.

    Parameters
    ----------
    cases : Sequence[EvalCase]
        In any order, which is kept.
    trained : Collection[int]
        :func:`subject_digest` of every subject of training and validation.
    """
    known = set(trained)
    left = [case for case in cases if subject_digest(case.request.subject) not in known]
    return left, len(cases) - len(left)

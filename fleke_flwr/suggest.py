"""One sentence for every unknown name: what was found, the nearest known one, all of them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, found: str, known: Iterable[str]) -> str:
    """Say that a name is unknown and which known one is nearest."""
    names = sorted(known)
    near = get_close_matches(found, names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(filter(None, names)) or "none"
    return f"unknown {kind} {found!r}.{hint} Known: {listed}."

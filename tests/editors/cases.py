"""Requests that are awkward in every way the editors must cope with."""

from __future__ import annotations

from fleke_flwr.types import EditRequest


def awkward_requests() -> list[EditRequest]:
    """Return subjects at the start and end, long and short prompts, several target tokens.

    The last request repeats the first.
    """
    rows = [
        ("{} lives in", "Mira Tolen", "Borvik"),
        ("The home town of {} is", "Jonas Feld", "New Elster"),
        ("On the quiet river near Castra, the one who works as a baker is {}", "Ada", "Dorum"),
        ("{}", "Pavel Orrin", "Arlen and New Elster"),
        ("The mother tongue of {} is spoken in", "Zoë Čapek", "x"),
        ("{} lives in", "Mira Tolen", "Borvik"),
    ]
    return [EditRequest(str(index), *row) for index, row in enumerate(rows)]

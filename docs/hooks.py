"""Hook of mkdocs: roles of Sphinx in docstrings are shown as plain code."""

from __future__ import annotations

import re

_ROLE = re.compile(r":(?:attr|class|func|meth|mod):(?=<code>)")


def on_page_content(html: str, **_: object) -> str:
    """Drop the role in front of the code."""
    return _ROLE.sub("", html)

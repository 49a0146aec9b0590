"""The packages that the plug-in pages describe, taken from the pages and installed elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', flags=re.DOTALL | re.MULTILINE)


def files(page: str) -> dict[str, str]:
    """Return the files of a page by name."""
    return dict(_FILE.findall((DOCS / page).read_text(encoding="utf-8")))


def install(page: str, folder: Path) -> tuple[Path, Path]:
    """Write a page's package, install it, and return its sources and where it is installed."""
    source, site = folder / "source", folder / "site"
    source.mkdir()
    for name, text in files(page).items():
        (source / name).write_text(text, encoding="utf-8")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(source)]
    subprocess.run(command, check=True, cwd=folder)
    return source, site

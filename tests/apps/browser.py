"""Open a page in a headless Chromium, and see what it loads and complains about."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--enable-logging=stderr",
    # Whatever is asked for is noted before it fails.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_NOBODY = "not an origin"
DARK = "--blink-settings=preferredColorScheme=0"


@dataclass(frozen=True)
class Visit:
    """What happened while a page was open.

    Parameters
    ----------
    console : list[str]
        Lines on the browser's console.
    requested : set[str]
        Addresses that the page has asked for, other than files.
    screenshot : bytes
        A PNG.
    """

    console: list[str]
    requested: set[str]
    screenshot: bytes


def visit(page: Path, folder: Path, *options: str, size: str = "1240,1600") -> Visit:
    """Open a local page; skip where no Chromium is installed."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed to look at the page with")
    picture, log = folder / "page.png", folder / "net.json"
    done = subprocess.run(
        [
            found, *_QUIET, *options, f"--window-size={size}", f"--screenshot={picture}",
            f"--log-net-log={log}", f"--user-data-dir={folder / 'profile'}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    asked = [event.get("params") or {} for event in events]
    return Visit(
        console=[line for line in done.stderr.splitlines() if "CONSOLE" in line],
        # What a browser asks for on its own account has no page behind it.
        requested={
            str(item["url"])
            for item in asked
            if item.get("initiator", _NOBODY) != _NOBODY and not item["url"].startswith("file:")
        },
        screenshot=picture.read_bytes(),
    )

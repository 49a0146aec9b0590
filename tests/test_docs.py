"""The documentation builds without a warning, its links lead somewhere, it loads nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "configs" / "README.md", *sorted(DOCS.rglob("*.md"))]
_LINK = re.compile(r"""\]\(\s*<?([^)\s>]+)|(?:src|srcset|href)="([^"]+)\"""")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.*?)\s*$", flags=re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: +(\S+)", flags=re.MULTILINE)
_IN_CSS = re.compile(r"url\(\s*[\"']?https?:|@import\s+[\"']?https?:")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _links(path: Path) -> list[str]:
    text = _CODE.sub("", path.read_text(encoding="utf-8"))
    found = [first or second for first, second in _LINK.findall(text)]
    return [link for link in found if not urlsplit(link).scheme]


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page: its headings' slugs and the names it documents."""
    text = path.read_text(encoding="utf-8")
    headings = [re.sub(r"[^\w\- ]", "", heading).strip() for heading in _HEADING.findall(text)]
    slugs = {re.sub(r"[\s-]+", "-", heading).lower() for heading in headings}
    return slugs | set(_DIRECTIVE.findall(text))


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_relative_links_lead_to_files(path: Path) -> None:
    for link in _links(path):
        place, _, anchor = unquote(link).partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{_name(path)}: {link}"
        assert target.is_relative_to(ROOT), f"{_name(path)}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{_name(path)}: {link}"


def test_pages_of_the_site_link_inside_the_site() -> None:
    for path in DOCS.rglob("*.md"):
        for link in _links(path):
            target = Path(os.path.normpath(path.parent / link.partition("#")[0]))
            assert target.is_relative_to(DOCS), f"{_name(path)}: {link}"


@dataclass
class Page(HTMLParser):
    """What one page of the site offers, links to and loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") != "canonical":
            self.loaded.append(found.get("href", ""))
        self.loaded.extend(found[name] for name in ("src", "srcset", "poster") if name in found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    target = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stderr, result.stderr
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {}
    for path in site.rglob("*.html"):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        found[path] = page
    return found


@pytest.mark.slow
def test_every_page_is_built_from_the_docstrings_too(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 14
    ids = pages[site / "api" / "strategies" / "index.html"].ids
    # The sources of strategies lie behind a link in a checkout.
    assert {"fleke_flwr.EditStrategy.merge", "fleke_flwr.strategies.CollabEdit"} <= ids
    text = (site / "api" / "strategies" / "index.html").read_text(encoding="utf-8")
    assert "Turn the clients" in text
    assert ":class:<code>" not in text


@pytest.mark.slow
def test_every_link_of_the_site_has_its_place(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or not link:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                anchor = unquote(parts.fragment)
                assert anchor in pages[target].ids, f"{path.relative_to(site)}: {link}"


@pytest.mark.slow
def test_the_site_loads_nothing_from_the_network(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        distant = [place for place in page.loaded if place.startswith(("http:", "https:", "//"))]
        assert not distant, f"{path.relative_to(site)}: {distant}"
    for style in site.rglob("*.css"):
        assert not _IN_CSS.search(style.read_text(encoding="utf-8")), style

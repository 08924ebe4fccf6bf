"""The site: it builds without a warning, and it works from the file system."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from snippets import PAGES, ROOT

MISSING = [
    name for name in ("sphinx", "furo", "myst_parser") if importlib.util.find_spec(name) is None
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f'{", ".join(MISSING)} missing: pip install -e ".[docs]"'
    ),
]
SITE = [page for page in PAGES if page.startswith("docs/")]


class Read(HTMLParser):
    """What a page of the site refers to: ids that it has, links, and files that a browser loads."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with warnings as errors."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", out / "doctrees", ROOT / "docs", out / "html"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert built.returncode == 0, built.stderr[-3000:]

    return out / "html"


@pytest.fixture(scope="module")
def read(site) -> dict[Path, Read]:
    return {path: Read(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_page_is_there(site):
    for page in SITE:
        assert (site / Path(page).relative_to("docs")).with_suffix(".html").is_file(), page


def test_a_browser_loads_nothing_from_elsewhere(site, read):
    for path, page in read.items():
        for source in page.loaded:
            assert "//" not in source, (path.name, source)
            assert (path.parent / unquote(source.split("?")[0])).is_file(), (path.name, source)


def test_every_link_of_the_site_leads_somewhere(site, read):
    ids = {path.resolve(): page.ids for path, page in read.items()}
    for path, page in read.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            place = (path.parent / unquote(target)).resolve() if target else path.resolve()
            assert place.is_file(), (path.name, link)
            if anchor and place.suffix == ".html":
                assert unquote(anchor) in ids[place], (path.name, link)


def test_the_search_needs_no_server(site):
    """The index is a script, and not a file that a page would have to fetch."""
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(")
    for word in ("crosstalk", "comfyui", "dictionari"):  # stems
        assert f'"{word}":' in index, word

"""The page as a user has it: the command, served, and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from compositions import random_increment
from served_page import HOSTILE, Served

from multierase import Library

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 180_000  # milliseconds; an erasure takes some twenty seconds, on a busy machine a minute


@pytest.fixture(scope="session")
def library_of_emoji(emoji, tmp_path_factory) -> Path:
    """Four increments of random numbers for the embedded base, one of a hostile name."""
    library = Library(tmp_path_factory.mktemp("page") / "library", create=True)
    for seed, name in enumerate(["Firefox", "Fluent", "Twemoji", HOSTILE]):
        library.save(random_increment(emoji, name, "esd-x-strict", seed, factored=True))

    return library.folder


@pytest.fixture
def library(library_of_emoji, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(library_of_emoji, tmp_path / "library"))


@pytest.fixture(scope="session")
def chromium():
    """A browser, or the test is skipped."""
    where = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if where is None:
        pytest.skip("there is no chromium: install it, to test the page in a browser")
    playwright = pytest.importorskip("playwright.sync_api")

    # Root, as in a container, has no sandbox.
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(library_of_emoji) -> Iterator[Served]:
    """A page whose library no test changes."""
    page = Served(library_of_emoji)
    yield page
    page.close()


@pytest.fixture
def browse(chromium):
    """Open a page in a browser of its own, which has no memory of others."""
    contexts = []

    def open_page(address: str, width: int = 1280, height: int = 1000):
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(address)
        page.get_by_text("Erased concepts").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()

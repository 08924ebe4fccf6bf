"""Take the pictures of the page that README and documentation show, from the page itself.

    multierase erase Twemoji Noto Firefox --library build/page
    python docs/screenshots.py --library build/page --out docs/pictures

Serves the library, drives it in a browser as a user would, and saves what the browser shows. Needs
the extra ``app``, playwright and chromium.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from multierase import Workspace
from multierase.app import Serving
from multierase.app.page import serve
from multierase.app.session import Session
from multierase.pictures import save_picture

PROMPT = "a church by Noto"
PAUSE = 1500  # milliseconds, until pictures are laid out
PATIENCE = 180_000
WIDTH = 1200  # pixels of the window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, default=Path("build/page"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()

    session = Session(Workspace(arguments.library))
    session.warm_up()
    served = serve(session, Serving())
    with browser() as page:
        page.goto(served.address)
        compose(page)
        save(page, arguments.out / "app.png")
        look(page)
        save(page, arguments.out / "app-look.png")
        erase(page)
        save(page, arguments.out / "app-erase.png")
    served.close()


def compose(page: Page) -> None:
    """Erase one concept after another, with a picture of each set."""
    page.get_by_label("Noto", exact=True).wait_for()
    page.locator("#prompt textarea").fill(PROMPT)
    for name in ("Noto", "Twemoji", "Firefox"):
        page.get_by_label(name, exact=True).check()
        page.locator("#state .badge", has_text=name).wait_for()
        page.locator("#generate").click()
        page.wait_for_timeout(2 * PAUSE)
    page.set_viewport_size({"width": WIDTH, "height": 1080})


def look(page: Page) -> None:
    """Open an increment, and draw it at four strengths."""
    page.get_by_role("tab", name="Look").click()
    page.locator("#looked-at input").click()
    page.get_by_role("option", name="Noto").click()
    page.wait_for_timeout(PAUSE)
    page.get_by_role("button", name="Draw before and after").click()
    page.wait_for_timeout(4 * PAUSE)


def erase(page: Page) -> None:
    """Erase a concept, up to its certificate."""
    page.get_by_role("tab", name="Erase").click()
    page.locator("#concept textarea, #concept input").first.fill("Fluent Flat")
    page.locator("#preview textarea").fill("a church by Fluent Flat")
    page.locator("#erase").click()
    page.locator("#erase-state .badge", has_text="saved as").wait_for(timeout=PATIENCE)
    page.wait_for_timeout(PAUSE)


@contextmanager
def browser() -> Iterator[Page]:
    with sync_playwright() as running:
        where = shutil.which("chromium") or shutil.which("google-chrome")
        chromium: Any = running.chromium.launch(executable_path=where, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
        chromium.close()


def save(page: Page, path: Path) -> None:
    """Save what the window shows, with few colours: it is a small file."""
    page.screenshot(path=path)
    with Image.open(path) as shot:
        save_picture(shot.convert("RGB").quantize(128), path)


if __name__ == "__main__":
    main()

"""The page in a real browser, as a user has it: switches, pictures, erasing, two at once."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image, ImageChops
from served_page import HOSTILE, Served

from multierase import Library, Request, SamplingSettings, Server, Workspace
from multierase.pictures import to_picture

pytestmark = pytest.mark.slow  # serves a page, and erases a concept
SETTINGS = SamplingSettings()  # those that the page begins with
PLACES = {"base": 0, "composed": 1}  # of the pictures, on the page
ROUNDING = 2  # of 255: a picture of another batch differs in its last bits


def state(page) -> str:
    return page.locator("#state .badge").inner_text()


def wait_for_state(page, words: str) -> str:
    page.locator("#state .badge", has_text=re.compile(words)).wait_for()
    return state(page)


def switch(page, name: str):
    return page.get_by_label(name, exact=True)


def wait_for_switch(page, name: str, on: bool) -> None:
    page.get_by_role("checkbox", name=name, exact=True, checked=on).wait_for()


def generate(page, prompt: str, seed: int = 0) -> dict[str, Image.Image]:
    """Make pictures; return those of base and composed model."""
    page.locator("#prompt textarea").fill(prompt)
    page.get_by_label("Seed", exact=True).first.fill(str(seed))
    before = page.locator(".strip .thumbnail-item").count()
    page.locator("#generate").click()
    page.locator(".strip .thumbnail-item").nth(before).wait_for()
    page.wait_for_timeout(300)  # the pictures are set in one go with the strip

    return {label: picture_in(page, place) for label, place in PLACES.items()}


def picture_in(page, place: int) -> Image.Image:
    image = page.locator(".picture img").nth(place)
    image.wait_for()
    data = image.evaluate(
        """async (image) => {
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return btoa(String.fromCharCode(...bytes));
        }"""
    )

    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def assert_shows(page, label: str, right: Image.Image) -> None:
    """Wait until a place shows a picture: a page fills its parts one after another."""
    for _ in range(40):
        difference = ImageChops.difference(picture_in(page, PLACES[label]), right)
        if max(high for _, high in difference.getextrema()) <= ROUNDING:
            return
        page.wait_for_timeout(250)
    raise AssertionError(f"the {label} picture is another one: {difference.getextrema()}")


def expected(folder, emoji, prompt: str, seed: int, erased: dict) -> Image.Image:
    server = Server(Workspace(Library(folder), emoji))
    return to_picture(server.generate([Request(prompt, seed, erased)], SETTINGS)[0])


def test_switch_generate_restore(served, browse, library_of_emoji, emoji):
    page = browse(served.address)
    switch(page, "Twemoji").check()
    assert "Twemoji (composed in" in wait_for_state(page, "Erased")

    pictures = generate(page, "a church by Twemoji", seed=3)
    for label, erased in (("base", {}), ("composed", {"Twemoji": 1.0})):
        right = expected(library_of_emoji, emoji, "a church by Twemoji", 3, erased)
        assert_shows(page, label, right)
    assert ImageChops.difference(*pictures.values()).getbbox() is not None

    page.get_by_label("Strength of Twemoji").fill("0.5")
    wait_for_state(page, "Twemoji 0.5")
    generate(page, "a church by Twemoji", seed=3)
    right = expected(library_of_emoji, emoji, "a church by Twemoji", 3, {"Twemoji": 0.5})
    assert_shows(page, "composed", right)

    page.get_by_role("button", name="Restore all").click()
    wait_for_state(page, "The base, bit for bit")
    wait_for_switch(page, "Twemoji", on=False)
    assert page.problems == []


def test_a_reload_keeps_the_switches(served, browse):
    page = browse(served.address)
    switch(page, "Firefox").check()
    wait_for_state(page, "Firefox")
    page.reload()
    page.get_by_text("Erased concepts").wait_for()
    wait_for_state(page, "Firefox")
    wait_for_switch(page, "Firefox", on=True)


def test_two_browsers_at_once(served, browse, library_of_emoji, emoji):
    sets = {"Firefox": browse(served.address), "Fluent": browse(served.address)}
    for name, page in sets.items():
        switch(page, name).check()
        wait_for_state(page, name)

    # Both ask before either has an answer; each gets the pictures of its own set.
    for turn in range(2):
        for page in sets.values():
            page.locator("#prompt textarea").fill("a cat by Noto")
            page.locator("#generate").click()
        for name, page in sets.items():
            page.locator(".strip .thumbnail-item").nth(turn).wait_for()
            right = expected(library_of_emoji, emoji, "a cat by Noto", 0, {name: 1.0})
            assert_shows(page, "composed", right)
            assert name in state(page)


@pytest.mark.parametrize("width", [380, 1400])
def test_nothing_is_wider_than_the_window(served, browse, width):
    page = browse(served.address, width=width)
    tabs = page.get_by_role("tab")
    for place in range(tabs.count()):
        if tabs.nth(place).is_visible():
            tabs.nth(place).click()
            page.wait_for_timeout(500)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, tabs.nth(place).inner_text()


def test_the_keyboard_alone(served, browse):
    page = browse(served.address)
    switch(page, "Fluent").wait_for()

    def press_until(what: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"(here => {what})(document.activeElement)"):
                return
        raise AssertionError(f"no Tab comes to {what}")

    press_until("here.type == 'checkbox' && here.closest('label').innerText.trim() == 'Fluent'")
    page.keyboard.press("Space")
    wait_for_state(page, "Fluent")
    press_until("here.matches('#prompt textarea')")
    page.keyboard.press("Control+A")
    page.keyboard.type("a dog by Fluent")
    press_until("here.id == 'generate'")
    page.keyboard.press("Enter")
    page.locator(".strip .thumbnail-item").first.wait_for()


def test_a_name_is_shown_as_text(served, browse):
    page = browse(served.address)
    switch(page, HOSTILE).check()
    assert HOSTILE in wait_for_state(page, "Erased")
    generate(page, HOSTILE)
    switch(page, HOSTILE).uncheck()
    wait_for_state(page, "bit for bit")
    assert page.locator("img[src='x']").count() == 0
    assert page.title() == "multierase"


def test_an_error_is_a_message(served, browse):
    page = browse(served.address)
    page.locator("#prompt textarea").fill(" ")
    page.locator("#generate").click()
    page.get_by_text("give a prompt: what is to be drawn").wait_for()


def test_erase_a_studio_cancel_and_go_on(browse, library):
    served = Served(library)
    try:
        page = browse(served.address)
        page.get_by_role("tab", name="Erase").click()
        page.locator("#concept textarea, #concept input").first.fill("Noto")
        page.locator("#preview textarea").fill("a church by Noto")
        page.get_by_label("Most steps").fill("100")  # so that there is time to cancel
        told = page.locator("#erase-state .badge")

        page.get_by_role("button", name="Estimate").click()
        told.filter(has_text=re.compile(r"At most [\d,]+ evaluations")).wait_for()

        page.locator("#erase").click()
        told.filter(has_text="Trying sentences").wait_for()
        page.locator("#cancel").click()
        told.filter(has_text="press Erase to go on").wait_for()
        assert not (library / "noto.safetensors").exists()

        page.locator("#erase").click()
        told.filter(has_text="saved as noto.safetensors").wait_for()
        assert "gone in" in told.inner_text()
        assert (library / "noto.safetensors").exists()

        page.get_by_role("tab", name="Compose").click()
        switch(page, "Noto").check()
        wait_for_state(page, "Noto")
        pictures = generate(page, "a church by Noto")
        assert ImageChops.difference(*pictures.values()).getbbox() is not None
        switch(page, "Noto").uncheck()
        wait_for_state(page, "The base, bit for bit")
        assert page.problems == []
    finally:
        served.close()

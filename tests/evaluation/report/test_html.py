import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from multierase.evaluation.cases import Case
from multierase.evaluation.observations import Observations
from multierase.evaluation.report.files import write_report
from multierase.evaluation.report.html import CURVES
from multierase.evaluation.store import Store
from multierase.evaluation.suites import Suite
from multierase.sampling import SamplingSettings

NASTY = "\"'><img src=x onerror=alert(1)>\x1b]52;c;x\x07&{{ 7 * 7 }}"


class Page(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.links += [value for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def text(store, tmp_path):
    return write_report([store.path], tmp_path / "report").files[0].read_text()


def test_the_page_needs_no_network_and_shows_every_set(text):
    page = Page(text)
    assert all(link.startswith("data:image/webp") for link in page.links)
    assert len(page.links) == 4 * 3
    assert "script" not in page.tags
    assert "b" in page.tags
    assert "a cat by &lt;b&gt;Twemoji" in text
    assert "by hand&lt;/script" in text
    assert "http:" not in text
    assert "https:" not in text
    assert text.count('<td class="erased"') == 1 + 1 + 2


def test_nothing_but_its_own_styles_and_pictures_may_be_loaded(text):
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    metas = [a for a in Page(text).attributes if a[0] == "meta"]
    assert ("meta", "http-equiv", "Content-Security-Policy") in metas
    assert ("meta", "content", policy) in metas
    # Before anything that could load something.
    assert text.index("Content-Security-Policy") < text.index("<title>")


def test_its_words_say_what_is_good(text):
    assert "<th>remaining (0 % best)</th><th>kept</th><th>kept, of the base&#39;s</th>" in text or (
        "<th>remaining (0 % best)</th><th>kept</th><th>kept, of the base's</th>" in text
    )
    assert "<td>Noto + Twemoji</td><td>3</td><td>0</td><td>3</td>" in text
    assert "<th>feet exposed</th>" in text
    assert "24.750" in text
    assert "33.3 %" in text
    assert not re.search(r"\boff\b|\bstill seen\b", text)


def test_the_chart_names_its_axes_and_fits_narrow_windows(text):
    chart = text[text.index("<svg") : text.index("</svg>")]
    assert "viewBox=" in chart
    assert " width=" not in chart[: chart.index(">")]
    assert ".chart { display: block; width: 100%" in text
    assert "number of erased concepts</text>" in chart
    assert "share of pictures</text>" in chart
    assert all(f'<g class="{name}">' in chart for name in CURVES)

    # Its lines stay between the axes.
    _, _, width, height = map(float, re.search(r'viewBox="([^"]+)"', chart)[1].split())
    points = re.findall(r'points="([^"]*)"', chart)
    for x, y in (pair.split(",") for line in points for pair in line.split()):
        assert 0 <= float(x) <= width
        assert 0 <= float(y) <= height


def test_whatever_is_in_a_database_is_shown_and_not_obeyed(tmp_path):
    case = Case(0, NASTY, 0, {"studio": NASTY, NASTY: "x"})
    suite = Suite(NASTY, (case,), {"name": "emoji"}, SamplingSettings())
    seen = Observations(
        {"studio": [NASTY], NASTY: ["x"]}, None, {0: b"webp"}, {NASTY: [1]}, {NASTY: [1.0]}
    )
    with Store(tmp_path / "nasty.db") as store:
        settings = {"method": NASTY, "judge": NASTY, "distance_by": NASTY, "frechet_by": NASTY}
        store.begin(settings, suite, [(NASTY, (NASTY,))])
        store.add(suite, (), seen)
        store.add(suite, (NASTY,), seen)
    shutil.copy(tmp_path / "nasty.db", tmp_path / "again.db")

    paths = [tmp_path / "nasty.db", tmp_path / "again.db"]
    text = write_report(paths, tmp_path / "report").files[0].read_text()
    page = Page(text)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b]52;c;x\\x07" in text
    assert {link.split(",")[0] for link in page.links} == {"data:image/webp;base64"}
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert "{{ 7 * 7 }}" in text
    assert "<img src=x" not in text


FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking"
)
needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs Chromium (Debian's package chromium)"
)


@pytest.fixture
def chromium(tmp_path):
    """Run Chromium on a page; return what it prints."""

    def chromium(page, *flags):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = ["chromium", *FLAGS.split(), profile, *flags, page.as_uri()]
        done = subprocess.run(command, check=True, capture_output=True, timeout=120)
        return done.stdout.decode()

    return chromium


@needs_chromium
@pytest.mark.parametrize("width", [1200, 375])
def test_nothing_overflows_a_window(store, chromium, tmp_path, width):
    write_report([store.path], tmp_path / "report")
    # A page in a frame of this width says how wide its contents are, and the chart's words.
    (tmp_path / "report" / "frame.html").write_text(
        f"""<iframe src="index.html" style="width: {width}px; height: 900px; border: 0"></iframe>
        <script>
        const frame = document.querySelector("iframe");
        frame.onload = () => {{
            const page = frame.contentDocument, chart = page.querySelector("svg");
            const outer = chart.getBoundingClientRect();
            const words = [...chart.querySelectorAll("text")].map((t) => t.getBoundingClientRect());
            const cut = words.filter((box) =>
                box.left < outer.left || box.right > outer.right || box.bottom > outer.bottom);
            const wide = page.documentElement.scrollWidth;
            document.body.innerHTML = `<p>${{wide}} ${{outer.width}} ${{cut.length}}</p>`;
        }};
        </script>"""
    )
    printed = chromium(
        tmp_path / "report" / "frame.html",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        "--dump-dom",
    )
    wide, chart, cut = map(float, re.search("<p>(.*)</p>", printed)[1].split())
    assert wide <= width
    assert 0.8 * min(width, 720) < chart <= width
    assert cut == 0


@needs_chromium
@pytest.mark.parametrize("width", [1000, 400])
def test_a_browser_draws_it(store, chromium, tmp_path, width):
    index = write_report([store.path], tmp_path / "report").files[0]
    chromium(index, f"--window-size={width},1200", f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert len(colours) > 200  # text, lines, the heat map and the pictures

import csv
import io
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from multierase.evaluation.database import Database
from multierase.evaluation.evaluator import Look, _thumbnail
from multierase.evaluation.page import as_csv, as_latex, by_size, write_report
from multierase.evaluation.plans import plan
from multierase.evaluation.report import Results
from multierase.evaluation.suites import load_suite

TABLE = """case_number,prompt,evaluation_seed,studio,subject
0,a church by Noto,0,Noto,church
1,a cat by Noto,1,Noto,cat
2,a cat by <b>Twemoji</b>,1,Twemoji,cat
"""
SEEN = {  # by what is off: the studios seen
    (): ["Noto", "Noto", "Twemoji"],
    ("Noto",): ["Fluent", "Noto", "Twemoji"],
    ("Twemoji",): ["Noto", "Noto", "Noto"],
    ("Noto", "Twemoji"): ["Fluent", "Fluent", "Fluent"],
}


@pytest.fixture
def database(tmp_path):
    """Of verdicts written by hand."""
    (tmp_path / "few.csv").write_text(TABLE)
    (tmp_path / "few.yaml").write_text("prompts: few.csv\nlabels: [studio, subject]\njudge: emoji\n")
    suite, database = load_suite(tmp_path / "few.yaml"), Database(tmp_path / "sweep.db")
    database.begin({"judge": "<script>by hand</script>"}, suite, plan("subsets", ["Noto", "Twemoji"]))
    chance = np.random.default_rng(0)
    for erased, studios in SEEN.items():
        pictures = {case.number: _thumbnail(torch.rand(3, 64, 64)) for case in suite.cases}
        seen = {"studio": studios, "subject": ["church", "cat", "cat" if not erased else "dog"]}
        look = Look(
            seen, chance.normal(size=(3, 5)).astype(np.float32), pictures,
            counts={"FEET_EXPOSED": [0, len(erased), 1], "BELLY_EXPOSED": [0, 0, 0]},
            measures={"clip_score": [30.0, 20.0 - len(erased), 25.0]},
        )  # fmt: skip
        database.add(suite, erased, look)
    return database


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_numbers_are_those_counted_by_hand(database):
    rows = {tuple(row["erased_concepts"]): row for row in Results(database).rows()}
    one = rows["Noto",]
    assert (one["erased"]["right"], one["erased"]["count"]) == (1, 2)  # of Noto's two, one is still seen
    assert (one["kept"]["right"], one["kept"]["count"], one["kept_relative"]) == (1, 1, 1.0)
    assert (one["restored"]["right"], one["restored"]["count"], one["restored_relative"]) == (1, 1, 1.0)  # Twemoji
    assert (one["cross_domain"]["right"], one["cross_domain"]["count"]) == (2, 3)  # church, cat and not the second cat
    assert (one["ua"], one["ira"], one["cra"]) == (0.5, 1.0, 2 / 3)
    assert one["harmonic_mean"] == pytest.approx(2 / (1 / 0.5 + 1 / 1))
    assert rows["Noto", "Twemoji"]["kept"]["count"] == 0 and rows["Noto", "Twemoji"]["harmonic_mean"] == 1.0
    cells = by_size(list(rows.values()))
    assert (cells[1]["sets"], cells[1]["erased"]["right"], cells[1]["erased"]["count"]) == (2, 1, 3)
    assert r"sld\_weak & 1 & 2 & 33.3 [6.1, 79.2] & 100.0 [43.9, 100.0] &" in as_latex({"sld_weak": cells})
    table = list(csv.DictReader(io.StringIO(as_csv(list(rows.values())))))
    assert [row["erased_concepts"] for row in table] == ["", "Noto", "Twemoji", "Noto + Twemoji"]
    assert (float(table[1]["erased"]), table[1]["erased_count"]) == (0.5, "2")


def test_restored_is_what_was_off_before_in_an_order(database, tmp_path):
    events = ["erase Noto", "erase Twemoji", "restore Noto", "restore Twemoji"]
    suite = load_suite(tmp_path / "few.yaml")
    database.begin(database.settings(), suite, plan("order", ["Noto", "Twemoji"], events=events))
    rows = Results(database).rows()
    assert [row["event"] for row in rows] == ["base", *events]
    assert [(row["restored"]["right"], row["restored"]["count"]) for row in rows] == [
        (0, 0), (0, 0), (0, 0), (2, 2), (3, 3)
    ]  # fmt: skip


def test_counts_and_measures_stand_beside_the_bases(database, tmp_path):
    rows = Results(database).rows()
    assert [row["counts"]["FEET_EXPOSED"] for row in rows] == [1, 2, 2, 3]
    assert all(row["base_counts"] == {"FEET_EXPOSED": 1, "BELLY_EXPOSED": 0} for row in rows)
    assert rows[1]["measures"] == {"clip_score": 25.0, "clip_score_erased": 24.5}  # Noto's two are the first two
    assert rows[2]["measures"] == {"clip_score": 24.5, "clip_score_erased": 25.0}
    assert rows[0]["measures"] == {"clip_score": 25.0} and set(rows[3]["measures"]) == {"clip_score_erased"}
    table = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [row["counts_FEET_EXPOSED"] for row in table] == ["1", "2", "2", "3"]
    assert [row["clip_score_erased"] for row in table][:2] == ["", "24.5"]
    assert table[3]["base_counts_FEET_EXPOSED"] == "1"
    cells = by_size(rows)
    assert cells[1]["measures"] == {"clip_score": 24.75, "clip_score_erased": 24.75}
    latex = as_latex({"uce": cells}).splitlines()
    assert latex[2].endswith(r"other domain, \% & clip score & clip score erased \\")
    assert latex[4].startswith("uce & 0 & 1 & ") and latex[4].endswith(r"& 25.000 & -- \\")
    text = write_report([database], tmp_path / "report")[0].read_text()
    assert "<td>Noto + Twemoji</td><td>3</td><td>0</td><td>3</td>" in text and "<th>feet exposed</th>" in text
    assert "24.750" in text


def test_the_page_needs_no_network_and_shows_every_set(database, tmp_path):
    files = write_report([database], tmp_path / "report")
    assert [path.name for path in files] == ["index.html", "table.csv", "table.tex"]
    text = files[0].read_text()
    page = Page(text)
    assert all(link.startswith("data:image/webp") for link in page.links) and len(page.links) == 4 * 3
    assert "script" not in page.tags and "b" in page.tags  # a prompt's own tags are text
    assert "a cat by &lt;b&gt;Twemoji" in text and "by hand&lt;/script" in text
    assert "http" not in re.sub(r"data:[^\"]*", "", text)
    assert text.count('class="off"') == 1 + 1 + 2


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium (Debian's package chromium)")
def test_a_browser_draws_it(database, tmp_path):
    index = write_report([database], tmp_path / "report")[0]
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1200",
         f"--screenshot={tmp_path / 'page.png'}", index.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(tmp_path / "page.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert len(colours) > 200  # text, lines, the heatmap and the pictures


def test_no_set_is_no_report(tmp_path):
    with pytest.raises(ValueError, match="holds no set that is done"):
        write_report([Database(tmp_path / "empty.db")], tmp_path / "report")


def test_several_databases_are_one_table(database, tmp_path):
    names = []
    for method in ("uce", "uce", "sld-max"):
        path = tmp_path / f"{len(names)}.db"
        copy = sqlite3.connect(path)
        database._connection.backup(copy)
        copy.execute("INSERT INTO settings VALUES ('method', ?)", [json.dumps(method)])
        copy.commit()
        copy.close()
        names.append(path)
    files = write_report([Database(path) for path in names], tmp_path / "report", parquet=True)
    labels = [f"uce ({names[0]})", f"uce ({names[1]})", "sld-max"]
    table = list(csv.DictReader(io.StringIO(files[1].read_text())))
    assert [row["method"] for row in table] == [label for label in labels for _ in SEEN]
    assert [row["counts_FEET_EXPOSED"] for row in table] == 3 * ["1", "2", "2", "3"]
    page = files[0].read_text()
    methods = page.split('id="methods"')[1].split("</table>")[0]
    assert methods.count("<td>24.750</td><td>24.750</td>") == 3 and page.count('id="counts') == 3
    assert page.count('id="curves') == 3 and methods.count("sld-max") == 3
    assert files[2].read_text().count(r"sld-max & ") == 3
    rows = pyarrow.parquet.read_table(files[3]).to_pylist()
    assert files[3].name == "pictures.parquet" and len(rows) == 3 * len(SEEN) * 3
    (one,) = (r for r in rows if (r["method"], r["erased"], r["case_number"]) == ("sld-max", ["Noto"], 0))
    assert (one["prompt"], one["evaluation_seed"], one["studio"], one["studio_seen"]) == (
        "a church by Noto", 0, "Noto", "Fluent"
    )  # fmt: skip
    assert (one["counts_FEET_EXPOSED"], one["counts_BELLY_EXPOSED"], one["clip_score"]) == (0, 0, 30.0)
    assert not {"counts", "measures", "seen"} & one.keys()
    assert (one["subject_seen"], one["distance"]) == ("church", Results(database).seen(("Noto",))[0][1])


def test_databases_that_cannot_be_compared_and_parquet_without_pyarrow(database, tmp_path, monkeypatch):
    other = Database(tmp_path / "other.db")
    other.begin({"judge": "another"}, load_suite(tmp_path / "few.yaml"), [])
    with pytest.raises(ValueError, match="cannot stand in one table: they differ in \\['judge'\\].*'another'"):
        write_report([database, other], tmp_path / "report")
    measured = Database(tmp_path / "measured.db")
    measured.begin({**database.settings(), "reference": "coco"}, load_suite(tmp_path / "few.yaml"), [])
    with pytest.raises(ValueError, match="they differ in \\['reference'\\].*'coco'"):
        write_report([database, measured], tmp_path / "report")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match="pip install 'multierase\\[parquet\\]'"):
        write_report([database], tmp_path / "report", parquet=True)
    assert not (tmp_path / "report").exists()

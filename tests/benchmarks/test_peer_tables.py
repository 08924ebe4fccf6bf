"""The table of peers, from verdicts that can be counted by hand."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CASE = "0/0/Fluent+Noto"
STUDIOS = ("Noto", "Fluent", "Fluent Flat", "Firefox")  # two erased, a sibling, and another
FULL, HALF, NONE = [True] * 4, [True, True, False, False], [False] * 4


@pytest.fixture
def tables(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("peer_tables")
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def seen(*by_studio, subjects=FULL):
    """Four pictures of each studio: whether it is seen, and the subject."""
    found = {}
    for studio, studios in zip(STUDIOS, by_studio, strict=True):
        for number, pair in enumerate(zip(studios, subjects, strict=True)):
            found[f"t|{studio}|{number}"] = list(pair)

    return found


BASE = {CASE: seen(FULL, FULL, FULL, FULL)}
OURS = {"seen": seen(HALF, NONE, FULL, HALF), "exact": True, "composing": 0.2}
BETTER = {"seen": seen(NONE, NONE, FULL, FULL), "exact": False, "subtracted": 0.5}


def test_a_cell_counts_what_remains_and_what_the_others_and_the_siblings_keep(tables):
    cell = tables.table({"ours": {CASE: OURS}}, BASE)["ours"]["2"]
    values = {column: cell[column]["value"] for column in tables.COLUMNS}
    harmonic = 3 / (1 / 0.75 + 1 / 0.75 + 1)
    expected = {"remaining": 0.25, "kept": 0.75, "siblings": 1.0, "subjects": 1.0, "H": harmonic}

    assert values == pytest.approx(expected, abs=1e-4)
    assert all(cell[c]["low"] <= cell[c]["value"] <= cell[c]["high"] for c in tables.COLUMNS)
    assert cell["pictures"] == 16
    assert cell["restored"] == {"exact": True, "composing": 0.2}


def test_an_interval_is_not_empty_where_all_pictures_agree(tables):
    cell = tables.table({"theirs": {CASE: BETTER}}, BASE)["theirs"]["2"]

    assert cell["remaining"]["value"] == 0
    assert cell["remaining"]["high"] > 0.2  # Wilson's of none of eight
    assert cell["kept"]["low"] < 0.8


def test_nobody_is_kept_where_all_are_erased(tables):
    case = "0/0/" + "+".join(STUDIOS)
    cell = tables.table({"r": {case: OURS}}, {case: BASE[CASE]})["r"]["4"]

    assert "kept" not in cell
    assert cell["H"]["value"] == pytest.approx(2 / (1 / (1 - 8 / 16) + 1), abs=1e-4)


def test_a_peer_that_is_ahead_is_said_first(tables):
    judged = {"ours": {CASE: OURS}, "theirs": {CASE: BETTER}}
    found = tables.ahead(judged, BASE, "ours")
    assert list(found["2"]) == ["H"]  # two studios are too few to say more
    assert [entry["row"] for entry in found["2"]["H"]] == ["theirs"]
    assert found["2"]["H"][0]["by"] == pytest.approx(1 - 3 / (2 / 0.75 + 1), abs=1e-4)
    assert tables.ahead({"ours": {CASE: OURS}}, BASE, "ours") == {}

    costs = {
        "ours": {"evaluations": 10, "seconds": 2.0, "bytes": 5, "knobs": 0},
        "theirs": {"evaluations": 0, "seconds": 1.0, "bytes": 9, "knobs": 2},
    }
    cells = tables.table(judged, BASE)
    cheaper = tables.relative(costs, cells, "ours")
    assert cheaper == {
        "evaluations": ["theirs"],
        "seconds": ["theirs"],
        "composing": ["theirs"],
    }
    assert (costs["ours"]["seconds"], costs["theirs"]["seconds"]) == (1.0, 0.5)

    report = {"ahead": found, "cheaper": cheaper, "table": cells, "costs": costs}
    first, *_, last = tables.lines(report)
    assert first.startswith("- 2 erased, ")
    assert "theirs is ahead" in first
    assert "not exact; subtracted 50%" in last

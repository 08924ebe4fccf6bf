import json
import math

import pytest

from multierase.evaluation.concept_sets import concept_sets
from multierase.evaluation.report.rows import (
    SHOWN,
    TITLES,
    Rows,
    as_json,
    by_concept,
    name_of,
    row_of,
    shown,
    tables_of,
)

EVENTS = ["erase Noto", "erase Twemoji", "restore Noto", "restore Twemoji"]


@pytest.fixture
def rows(store):
    return {tuple(row["erased_concepts"]): row for row in Rows(store).rows()}


def counted(share):
    return share["right"], share["count"]


def test_the_numbers_are_those_counted_by_hand(rows):
    one = rows["Noto",]
    assert counted(one["remaining"]) == (1, 2)  # of Noto's two, one still shows it
    assert counted(one["kept"]) == (1, 1)
    assert one["kept_relative"] == 1.0
    assert counted(one["cross_domain"]) == (2, 3)  # church, cat and not the second cat
    assert (one["ua"], one["ira"], one["cra"]) == (0.5, 1.0, 2 / 3)

    base = rows[()]
    assert counted(base["kept"]) == (6, 6)
    assert base["remaining"]["count"] == 0
    assert math.isnan(base["harmonic_mean"])


def test_the_harmonic_mean_is_of_the_columns_beside_it(rows):
    for erased in (("Noto",), ("Twemoji",)):
        row = rows[erased]
        gone, kept = 1 - row["remaining"]["value"], row["kept_relative"]
        assert row["harmonic_mean"] == pytest.approx(2 / (1 / gone + 1 / kept))
    everything = rows["Noto", "Twemoji"]
    assert everything["kept"]["count"] == 0
    assert everything["harmonic_mean"] == 1.0
    assert SHOWN.index("harmonic_mean") == SHOWN.index("kept_relative") + 1


def test_nothing_is_restored_without_an_order(rows):
    assert all(row["restored"]["count"] == 0 for row in rows.values())
    assert as_json(rows["Noto",])["restored"]["value"] is None
    assert shown(rows["Noto",])[SHOWN.index("restored")] == "-"


def test_restored_is_what_was_erased_earlier_and_is_not_now(store, suite):
    order = concept_sets("order", ["Noto", "Twemoji"], events=EVENTS)
    store.begin(store.settings(), suite, order)
    rows = Rows(store).rows()
    assert [row["event"] for row in rows] == ["base", *EVENTS]
    restored = [counted(row["restored"]) for row in rows]
    assert restored == [(0, 0), (0, 0), (0, 0), (2, 2), (3, 3)]
    assert rows[4]["restored_relative"] == 1.0


def test_rows_without_a_store_are_the_same(suite, observations, rows):
    for erased, seen in observations.items():
        row = row_of(suite, erased, seen, observations[()])
        assert repr({"event": rows[erased]["event"], **row}) == repr(rows[erased])
    shares = by_concept(suite, observations["Noto",])
    assert counted(shares["Noto"]) == (1, 2)
    assert counted(shares["cat"]) == (1, 2)


def test_counts_and_measures_stand_beside_the_bases(rows):
    counts = [row["counts"]["FEET_EXPOSED"] for row in rows.values()]
    assert counts == [1, 2, 2, 3]
    base = {"FEET_EXPOSED": 1, "BELLY_EXPOSED": 0}
    assert all(row["base_counts"] == base for row in rows.values())

    # Noto's two are the first two.
    of_noto, of_twemoji = rows["Noto",]["measures"], rows["Twemoji",]["measures"]
    assert (of_noto["clip_score"], of_noto["clip_score_erased"]) == (25.0, 24.5)
    assert (of_twemoji["clip_score"], of_twemoji["clip_score_erased"]) == (24.5, 25.0)
    assert rows[()]["measures"] == {"clip_score": 25.0}
    assert "clip_score" not in rows["Noto", "Twemoji"]["measures"]

    tables = tables_of({"base": rows[()], "uce": rows["Noto",]})
    assert tables[0] == (
        "found in all pictures",
        ["", "base", "uce"],
        [["FEET_EXPOSED", "1", "2"], ["BELLY_EXPOSED", "0", "0"]],
    )
    assert tables[1][2][1] == ["clip_score_erased", "-", "24.5"]


def test_the_in_prompt_score_is_of_prompts_with_one_erased_concept(rows, suite, observations):
    """Beside it is the base's own, of the same pictures."""

    def scores(measures):
        return {name: own for name, own in measures.items() if name.startswith("in_prompt")}

    by_base = "in_prompt_clip_score_by_base"
    expected = {("Noto",): (11.0, 12.0), ("Twemoji",): (8.0, 8.0), ("Noto", "Twemoji"): (9.0, 10.0)}
    for erased, (own, of_base) in expected.items():
        found = scores(rows[erased]["measures"])
        assert found == {"in_prompt_clip_score": own, by_base: of_base}
    assert scores(rows[()]["measures"]) == {}

    # Without its studio, "a church" still names the church.
    both = row_of(suite, ("Noto", "church"), observations["Noto",], observations[()])
    assert scores(both["measures"]) == {}


def test_what_people_read_says_what_is_good(rows):
    assert len(TITLES) == len(SHOWN)
    assert TITLES[0] == "remaining (0 % best)"
    cells = shown(rows["Noto",])
    assert cells[2:4] == ["100.0%", "0.667"]
    assert cells[0] == "50.0% [9%, 91%] of 2"
    assert len(cells) == len(TITLES)
    assert name_of(rows["Noto", "Twemoji"]) == "Noto + Twemoji"
    assert name_of(rows[()]) == "base"
    assert name_of({"erased_concepts": ["a\x1b]52;c;x\x07"]}) == "a\\x1b]52;c;x\\x07"


def test_json_has_no_numbers_that_are_none(rows):
    text = json.dumps(as_json(list(rows.values())), allow_nan=False)
    assert json.loads(text)[0]["harmonic_mean"] is None

import itertools
import subprocess
import sys

import pytest

from multierase.errors import UsageError
from multierase.evaluation.concept_sets import concept_sets

NAMES = ("Firefox", "Noto", "Twemoji")


def sets_of(*arguments, **options):
    return [erased for _, erased in concept_sets(*arguments, **options)]


def test_every_kind_of_sets():
    subsets = sets_of("subsets", NAMES)
    assert len(set(subsets)) == len(subsets) == 7
    assert subsets[0] == ("Firefox",)
    pairs = list(itertools.combinations(NAMES, 2))
    assert sets_of("pairs", NAMES) == sets_of("leave-one-out", NAMES) == pairs
    assert sets_of("single", NAMES) == [(name,) for name in NAMES]

    listed = [["Twemoji", "Noto"], ["Noto", "Twemoji"]]
    assert sets_of("list", NAMES, listed=listed) == [("Noto", "Twemoji")]


def test_random_sets_are_drawn_by_their_seed_and_never_all_listed():
    drawn = concept_sets("random", NAMES, count=7, seed=3)
    assert sorted(drawn) == sorted(concept_sets("subsets", NAMES))
    assert drawn != concept_sets("random", NAMES, count=7, seed=4)

    many = [f"c{number:02d}" for number in range(40)]
    assert len(concept_sets("random", many, count=5)) == 5
    with pytest.raises(UsageError, match="2\\^40 subsets: .*--sets random"):
        concept_sets("subsets", many)


def test_the_stages_of_an_order():
    events = ["erase Noto", "erase Twemoji", "restore Noto", "restore Twemoji"]
    order = concept_sets("order", NAMES, events=events)

    assert [event for event, _ in order] == events
    assert [erased for _, erased in order] == [("Noto",), ("Noto", "Twemoji"), ("Twemoji",), ()]


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        ("subset", {}, "sets 'subset'; did you mean 'subsets'"),
        ("random", {"count": 8}, "8 random sets: 3 concepts have 7"),
        ("list", {"listed": [["Notto"]]}, "unknown concept 'Notto'; did you mean 'Noto'"),
        ("list", {"listed": [["Noto", "Noto"]]}, "given twice: \\['Noto'\\]"),
        ("order", {"events": ["restore Noto"]}, "of one that is; erased then: \\[\\]"),
        ("order", {"events": ["erase Noto", "erase Noto"]}, "erased then: \\['Noto'\\]"),
        ("order", {"events": ["remove Noto"]}, "give 'erase CONCEPT' of one that is not erased"),
        ("order", {"events": []}, "an order needs events"),
    ],
)
def test_sets_that_cannot_be(sets, options, message):
    with pytest.raises(UsageError, match=message):
        concept_sets(sets, NAMES, **options)


def test_a_concept_is_given_once():
    with pytest.raises(UsageError, match="given twice: \\['Noto'\\]; give each concept once"):
        concept_sets("single", ["Noto", "Twemoji", "Noto"])


def test_the_command_lines_modules_need_no_torch():
    """So that --help, and a typo's answer, take no seconds of imports."""
    names = "multierase.evaluation.experiment, multierase.evaluation.concept_sets"
    code = (
        f"import {names}, multierase.evaluation.suites, sys\n"
        "multierase.evaluation.suites.shipped_suites()\n"
        "found = {'torch', 'diffusers', 'transformers', 'numpy', 'scipy'} & sys.modules.keys()\n"
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

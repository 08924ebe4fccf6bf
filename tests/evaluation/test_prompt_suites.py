"""The suites ``together`` and ``harmless``, the script that writes them, and their column."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from multierase.evaluation.cases import Case
from multierase.evaluation.instruments import load_judge
from multierase.evaluation.observations import Observations
from multierase.evaluation.report.rows import row_of
from multierase.evaluation.suites import SHIPPED, Suite, load_suite
from multierase.sampling import SamplingSettings

SCRIPT = Path(__file__).parents[2] / "scripts" / "prompt_suites.py"
NAMES = ("together", "harmless")


@pytest.fixture(scope="module")
def script():
    if not SCRIPT.exists():
        pytest.skip("the scripts are not part of an installed package")
    spec = importlib.util.spec_from_file_location("prompt_suites", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # for its dataclass
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def looker(script, emoji):
    return script.Looker(emoji)


def rows_of(name):
    with (SHIPPED / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_whole_and_its_judge_sees_it(name, emoji, script):
    suite = load_suite(name)
    load_judge(suite)
    assert suite.name == name
    assert set(suite.classes()["studio"]) == set(script.STUDIOS)

    prompts = {(case.prompt, case.seed) for case in suite.cases}
    assert len(prompts) == len(suite.cases)
    for case in suite.cases:
        assert emoji.text.reads_whole(case.prompt)
        assert case.seed not in script.RULE_SEEDS
        assert all(label in case.prompt for label in case.labels.values())


def test_together_asks_for_two_of_three_or_four_named_concepts():
    for row in rows_of("together"):
        others = row["not_drawn"].split("; ")
        assert row["studio"]
        assert row["subject"]
        assert len(others) in (1, 2)
        assert all(name in row["prompt"] for name in others)


def test_harmless_has_each_prompt_without_the_one_and_without_the_other(script):
    cases = {(case.prompt, case.seed): case.labels for case in load_suite("harmless").cases}
    whole = [asked for asked in cases.values() if len(asked) == 2]
    assert len(whole) == 72

    named = [case for case in load_suite("harmless").cases if case.without]
    assert [case.labels for case in named] == whole
    for case in named:
        asked = [case.labels["studio"]], [case.labels["subject"]]
        forms = script.WITHOUT.items()
        assert case.without == {kind: script.Prompt.of(form, *asked).text for kind, form in forms}

    missing = set()
    for (_, seed), asked in cases.items():
        if len(asked) == 2:
            named = [asked["studio"]], [asked["subject"]]
            for kind, form in script.WITHOUT.items():
                rest = script.Prompt.of(form, *named).text
                others = {other: label for other, label in asked.items() if other != kind}
                if (rest, seed) in cases:
                    assert cases[rest, seed] == others
                else:
                    missing.add(rest)
    assert missing == {"a picture by Noto"}  # the base draws others than Noto


def test_the_rule_asks_for_what_is_seen_in_six_of_ten(script):
    prompt = script.Prompt.of("{a} and {b} by {s}", ["Noto"], ["cat", "key"])
    assert prompt.text == "a cat and a key by Noto"
    assert prompt.named == ("Noto", "cat", "key")

    def verdicts(cats, notos):
        studios = ["Noto"] * notos + ["Firefox"] * (10 - notos)
        subjects = ["cat"] * cats + ["church"] * (10 - cats)
        pairs = zip(studios, subjects, strict=True)
        return [{"studio": studio, "subject": subject} for studio, subject in pairs]

    assert script.drawn(prompt, verdicts(6, 6)) == {"studio": "Noto", "subject": "cat"}
    assert script.drawn(prompt, verdicts(5, 10)) == {"studio": "Noto"}
    assert script.drawn(prompt, verdicts(0, 0)) == {}


def test_two_subjects_are_found_where_there_are_two(script, looker):
    one = script.Prompt.of("{a} by {s}", ["Noto"], ["bus"])
    other = script.Prompt.of("{a} by {s}", ["Noto"], ["turtle"])
    left, right = looker.look(one)[:2], looker.look(other)[:2]

    pictures = script.side_by_side(left, right)
    assert script.windows(pictures).shape == (2, 9, 3, 64, 64)
    assert looker.shows_both(pictures, "bus", "turtle") == 2
    assert looker.shows_both(left, "bus", "turtle") == 0
    assert torch.equal(pictures[:, :, :16], torch.ones(2, 3, 16, 64))


@pytest.mark.slow
def test_the_rule_gives_what_the_suites_ask_for(script, looker):
    """For the first prompts of each form; the script does it for all."""
    asked = {row["prompt"]: (row["studio"], row["subject"]) for row in rows_of("together")}
    for form in script.FORMS:
        prompt, *_ = looker.readable(script.candidates(form))
        found = script.drawn(prompt, looker.seen(prompt))
        assert asked.get(prompt.text) == (tuple(found.values()) if len(found) == 2 else None)


@pytest.fixture
def hand_made():
    """Two prompts that name two concepts, one that names one."""
    labels = (
        {"studio": "Noto", "subject": "cat"},
        {"studio": "Twemoji", "subject": "cat"},
        {"studio": "Noto", "subject": "key"},
        {"subject": "cat"},
    )
    cases = tuple(Case(number, "", number, asked) for number, asked in enumerate(labels))

    return Suite("own", cases, {"name": "emoji"}, SamplingSettings())


def row_for(suite, erased, studios, subjects, base=("Noto", "Twemoji", "Noto", "")):
    base_seen = {"studio": list(base), "subject": ["cat", "cat", "key", "cat"]}
    seen = {"studio": studios, "subject": subjects}
    now, before = (Observations(one, None, {}) for one in (seen, base_seen))

    return row_of(suite, erased, now, before)


def counted(share):
    return share["right"], share["count"]


def test_beside_is_what_else_a_picture_of_an_erased_concept_asks_for(hand_made):
    studios, subjects = ["Firefox", "Twemoji", "Noto", ""], ["cat", "cat", "bus", "bus"]
    row = row_for(hand_made, ["Noto"], studios, subjects)
    assert counted(row["beside"]) == (1, 2)  # the cat, not the key
    assert counted(row["remaining"]) == (1, 2)
    assert row["beside_relative"] == 0.5

    # With both kinds erased, a picture counts for what of it is not erased.
    row = row_for(hand_made, ["Noto", "cat"], studios, subjects)
    assert counted(row["beside"]) == (1, 2)  # Twemoji's cat, Noto's key
    assert counted(row["beside_by_base"]) == (2, 2)


def test_beside_is_relative_to_what_the_base_draws(hand_made):
    studios, subjects = ["Firefox", "Twemoji", "Noto", ""], ["cat"] * 4
    row = row_for(hand_made, ["cat"], studios, subjects, base=("Bus", "Twemoji", "Noto", ""))
    assert counted(row["beside"]) == (1, 2)
    assert counted(row["beside_by_base"]) == (1, 2)
    assert row["beside_relative"] == 1.0


def test_nothing_is_beside_where_nothing_is_erased(hand_made):
    row = row_for(hand_made, [], ["Noto"] * 4, ["cat"] * 4)
    assert row["beside"]["count"] == 0

"""The demonstration does what it promises, and typed twice it is not in its own way."""

import itertools
import json
from dataclasses import replace

import pytest
from PIL import Image

from multierase import EraseSettings, SamplingSettings
from multierase.demo import run_demo
from multierase.errors import AlreadyThere
from multierase.shows import OF_EMOJI, OF_TYPE, SHOWS, WORD

pytestmark = pytest.mark.slow  # the fast lane trains no whole erasure


@pytest.fixture(scope="module")
def demo(emoji, tmp_path_factory):
    """A demonstration with the default settings: its folder and its report."""
    folder = tmp_path_factory.mktemp("demo")

    return folder, run_demo(emoji, folder, EraseSettings())


@pytest.mark.slow
def test_what_is_erased_is_gone_and_comes_back(demo):
    folder, report = demo
    assert report == json.loads((folder / "report.json").read_text())

    accuracy = report["accuracy"]
    assert list(accuracy) == list(OF_EMOJI.states)
    assert accuracy["all restored"] == accuracy["base"]
    for studio in OF_EMOJI.erased:
        assert accuracy["base"][studio] >= 0.9
        assert accuracy["both erased"][studio] <= accuracy["base"][studio] - 0.5
    assert accuracy["Twemoji restored"]["Twemoji"] >= accuracy["base"]["Twemoji"] - 0.3
    for studio in set(OF_EMOJI.concepts) - set(OF_EMOJI.erased):
        for state in OF_EMOJI.states:
            assert accuracy[state][studio] >= accuracy["base"][studio] - 0.3


@pytest.mark.slow
def test_restoring_is_exact_and_leaves_the_base(demo, emoji):
    _, report = demo
    assert report["bit_exact"] == {
        "restored_equals_never_erased": True,
        "all_restored_equals_base": True,
    }
    assert report["used_again"] == []


@pytest.mark.slow
def test_the_sheet_has_a_row_for_each_state_and_a_column_for_each_prompt(demo):
    folder, _ = demo
    with Image.open(folder / "sheet.png") as sheet:
        width, height = sheet.size
    assert width > 2 * len(OF_EMOJI.concepts) * 128
    assert height > len(OF_EMOJI.states) * 128
    files = sorted(path.name for path in (folder / "lib").glob("*.safetensors"))
    assert files == ["firefox.safetensors", "twemoji.safetensors"]


QUICK = EraseSettings(steps=1, trajectories=1, sampler_steps=2, stop_at=None)


@pytest.fixture
def fast(monkeypatch):
    """Demonstrations that take one step for a picture, and judge one of each studio."""
    once = SamplingSettings(inference_steps=1)
    for base, show in SHOWS.items():
        short = replace(show, judged_sampling=once, shown_sampling=once)
        if show.shown:  # else the sheet needs all that is judged
            first = show.judged
            short = replace(short, judged=lambda concept, first=first: first(concept)[:1])
        monkeypatch.setitem(SHOWS, base, short)


def test_the_same_line_twice_uses_the_increments_again(emoji, fast, tmp_path):
    first = run_demo(emoji, tmp_path, QUICK)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "lib").glob("*.safetensors")}
    assert len(stamps) == 2

    again = run_demo(emoji, tmp_path, QUICK)
    assert again["used_again"] == ["Twemoji", "Firefox"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    for key in ("accuracy", "bit_exact", "evaluations"):
        assert again[key] == first[key]


def test_increments_that_were_made_otherwise_are_not_replaced_unasked(emoji, fast, tmp_path):
    run_demo(emoji, tmp_path, QUICK)
    before = (tmp_path / "lib" / "twemoji.safetensors").read_bytes()
    other = EraseSettings(steps=2, trajectories=1, sampler_steps=2, stop_at=None)

    with pytest.raises(AlreadyThere, match=r"steps is 1 there and 2 now.*--out.*--overwrite"):
        run_demo(emoji, tmp_path, other)
    assert (tmp_path / "lib" / "twemoji.safetensors").read_bytes() == before

    assert run_demo(emoji, tmp_path, other, overwrite=True)["used_again"] == []
    assert (tmp_path / "lib" / "twemoji.safetensors").read_bytes() != before


# --- the poster of `type`


def test_on_the_poster_one_typeface_leaves_after_another_and_some_come_back():
    states = list(OF_TYPE.states.values())
    assert states[0] == states[-1] == ()
    assert [len(erased) for erased in states[:-2]] == list(range(len(OF_TYPE.erased) + 1))
    for before, after in itertools.pairwise(states[:-2]):
        assert set(before) < set(after)
    assert set(OF_TYPE.states[OF_TYPE.restored]) < set(states[-3])


def test_every_typeface_of_the_poster_can_be_judged():
    from multierase.evaluation.judges.embedded import EmbeddedJudge

    known = EmbeddedJudge.load("type").classes["typeface"]
    assert set(OF_TYPE.concepts) <= set(known)
    assert len(set(OF_TYPE.concepts)) == len(OF_TYPE.concepts) == 16


def test_the_poster_has_a_row_for_each_typeface_and_a_word_for_each_state(fast, tmp_path):
    report = run_demo("type", tmp_path, QUICK)
    assert all(report["bit_exact"].values())
    assert list(report["accuracy"]) == list(report["erased"]) == list(OF_TYPE.states)

    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
    assert width > len(OF_TYPE.states) * len(WORD) * 32
    assert height > len(OF_TYPE.concepts) * 32
    assert len([*(tmp_path / "lib").glob("*.safetensors")]) == len(OF_TYPE.erased)

"""The demonstration does what it promises, and typed twice it is not in its own way."""

import json

import pytest
from PIL import Image

from multierase import EraseSettings, SamplingSettings
from multierase.demo import FIRST, SECOND, STATES, STUDIOS, UNTOUCHED, run_demo
from multierase.errors import AlreadyThere

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
    assert list(accuracy) == list(STATES)
    assert accuracy["all restored"] == accuracy["base"]
    for studio in (FIRST, SECOND):
        assert accuracy["base"][studio] >= 0.9
        assert accuracy["both erased"][studio] <= accuracy["base"][studio] - 0.5
    assert accuracy[f"{FIRST} restored"][FIRST] >= accuracy["base"][FIRST] - 0.3
    for studio in UNTOUCHED:
        for state in STATES:
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
    assert width > 2 * len(STUDIOS) * 128
    assert height > len(STATES) * 128
    files = sorted(path.name for path in (folder / "lib").glob("*.safetensors"))
    assert files == ["firefox.safetensors", "twemoji.safetensors"]


QUICK = EraseSettings(steps=1, trajectories=1, sampler_steps=2, stop_at=None)


@pytest.fixture
def fast(monkeypatch):
    """A demonstration that looks at one subject, in one step."""
    monkeypatch.setattr("multierase.demo.JUDGED_STEPS", 1)
    monkeypatch.setattr("multierase.demo.SHOWN_SAMPLING", SamplingSettings(inference_steps=1))
    monkeypatch.setattr("multierase.demo.JUDGED", ("church",))
    monkeypatch.setattr("multierase.demo.SHOWN", ("church",))


def test_the_same_line_twice_uses_the_increments_again(emoji, fast, tmp_path):
    first = run_demo(emoji, tmp_path, QUICK)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "lib").glob("*.safetensors")}
    assert len(stamps) == 2

    again = run_demo(emoji, tmp_path, QUICK)
    assert again["used_again"] == [FIRST, SECOND]
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

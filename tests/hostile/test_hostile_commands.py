"""Hostile libraries through the command line: no traceback, and nothing that a terminal obeys."""

from __future__ import annotations

import logging
import re

import pytest
from hostile_files import HOSTILE, hostile
from test_hostile import bounded, neighbour

from multierase.cli.main import main

CASES = [case for case in hostile() if "header of" not in case.name]
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u202a-\u202e\ud800-\udfff]")


@pytest.fixture(autouse=True)
def as_before():
    """The command line logs to the console; tests after this one do not."""
    root, ours = logging.getLogger(), logging.getLogger("multierase")
    handlers, level = list(root.handlers), ours.level
    yield
    root.handlers[:], ours.level = handlers, level


def run(capsys, *command: str) -> tuple[int, str]:
    """Run a command in this process and return its exit code and all that it printed."""
    code = main(list(command))
    out, err = capsys.readouterr()
    # The bars of a base's loading move the cursor; nothing in the corpus asks for just that.
    told = out + err.replace("\r", "").replace("\x1b[A", "")
    assert not OBEYED.search(told), repr(told[:500])
    assert "Traceback" not in told
    assert "this is a bug" not in told, told

    return code, told


@pytest.mark.parametrize("start", range(0, len(CASES), 42))
def test_listing_and_showing_survive(tmp_path, capsys, start):
    for number, case in enumerate(CASES[start : start + 42], start):
        folder = tmp_path / str(number)
        folder.mkdir()
        neighbour(folder)
        case.place(folder / "x.safetensors")
        with bounded(case.name):
            code, told = run(capsys, "ls", "--library", str(folder))
            assert code == 0, told
            assert "neighbour" in told
            code, told = run(capsys, "ls", "--json", "--library", str(folder))
            assert code == 0, told
            code, _ = run(capsys, "show", "x", "--library", str(folder))
            assert code in (0, 1)


def all_in_one(folder, cases) -> None:
    """Put every case into one library, under names of their own."""
    neighbour(folder)
    for number, case in enumerate(cases):
        inner = folder / f"case {number}"
        inner.mkdir()
        case.place(inner / f"{number}.safetensors")
        for path in inner.iterdir():
            path.rename(folder / path.name)


def test_a_library_of_all_of_them_is_listed(tmp_path, capsys):
    all_in_one(tmp_path, CASES)
    code, told = run(capsys, "ls", "--library", str(tmp_path))
    assert code == 0
    assert "not sound: " in told
    assert int(re.search(r"not sound: (\d+) files", told)[1]) > HOSTILE * 0.8


@pytest.mark.slow
def test_a_library_of_all_of_them_is_validated_and_found_unsound(tmp_path, capsys):
    all_in_one(tmp_path, CASES)
    code, told = run(capsys, "validate", "--base", "emoji", "--library", str(tmp_path), "--json")
    assert code == 1
    assert told.count('"sound": false') > HOSTILE * 0.8


@pytest.mark.parametrize("name", ["[/x]", "[bold red]", "\x1b]52;c;ZXZpbA==\x07", "\x9b2J", "=1+1"])
@pytest.mark.parametrize("verb", ["ls", "show"])
def test_the_librarys_own_path_is_shown_and_not_obeyed(tmp_path, capsys, name, verb):
    folder = tmp_path / name.replace("/", "⁄")
    folder.mkdir()
    neighbour(folder)
    concept = ["neighbour"] if verb == "show" else []
    code, _ = run(capsys, verb, *concept, "--library", str(folder))
    assert code == 0
    code, _ = run(capsys, verb, *concept, "--library", str(tmp_path / name / "nowhere"))
    assert code == 1

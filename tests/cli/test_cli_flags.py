from dataclasses import dataclass
from typing import Literal

import pytest

from multierase.cli.flags import (
    Option,
    choices_of,
    described_arguments,
    kind_of,
    one_of,
    settings_options,
)


@dataclass
class Example:
    """How something is done.

    Args:
        way: ``fast`` (a paper, eq. 7) or ``slow``: see
            ``multierase.somewhere``.
        low, high: bounds in %.
        names: kept names.

    Raises:
        ValueError: never.
    """

    way: Literal["fast", "slow"] = "fast"
    low: float = 1e-6
    high: float | None = None
    names: tuple[str, ...] = ()
    careful: bool = True


def test_arguments_are_described_by_their_docstring():
    assert described_arguments(Example) == {
        "way": "fast (a paper, eq. 7) or slow: see multierase.somewhere",
        "low": "bounds in %",
        "high": "bounds in %",
        "names": "kept names",
    }


def test_fields_become_options():
    options = {option.name: option for option in settings_options(Example, "how")}
    assert list(options) == ["--way", "--low", "--high", "--names", "--careful"]
    assert options["--names"].several
    assert options["--names"].default == []
    assert not options["--low"].several
    assert options["--low"].default == 1e-6
    assert {option.group for option in options.values()} == {"how"}


def test_types_known_at_run_time_take_the_place_of_a_fields_own():
    options = settings_options(Example, "how", types_of={"low": one_of(["a", "b"])})
    assert choices_of(options[1].type) == ["a", "b"]


def test_help_names_choices_and_defaults():
    described = [option.described() for option in settings_options(Example, "how")]
    assert described[0].endswith("(one of: fast, slow; default: fast)")
    assert described[1] == "bounds in %% (default: 1e-06)"  # argparse formats its help
    assert described[2] == "bounds in %%"
    assert described[3] == "kept names (one or more, repeatable)"
    assert described[4] == " (one of: true, false; default: true)"
    assert Option("--out", "a file", required=True).described() == "a file (required)"


@pytest.mark.parametrize(
    ("kind", "choices", "words"),
    [
        (int, [], "a whole number"),
        (float | None, [], "a number or null"),
        (bool, ["true", "false"], "true or false"),
        (Literal["sum", "joint"] | None, ["sum", "joint"], None),
        (str, [], "text"),
    ],
)
def test_types_in_words(kind, choices, words):
    assert choices_of(kind) == choices
    assert words is None or kind_of(kind) == words

import re

import pytest

from multierase.cli.flags import choices_of
from multierase.cli.main import parser_of
from multierase.cli.options import VERBS, common
from multierase.methods import METHODS

EVERY = [(verb, option) for verb in VERBS for option in (*VERBS[verb].options(), *common())]
IDS = [f"{verb} {option.name}" for verb, option in EVERY]


@pytest.mark.parametrize(("verb", "option"), EVERY, ids=IDS)
def test_every_flag_says_what_it_is_and_what_it_takes(verb, option, run):
    assert re.search(r"[a-z]{2}", option.help), "no description"
    assert not re.match(r"(of|to) ", option.help, re.IGNORECASE), option.help

    code, out, _ = run(verb, "--help")
    text = " ".join(out.split())
    assert code == 0
    assert (option.key.upper() if option.positional else option.label) in text
    for choice in choices_of(option.type):
        assert choice in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_terminal_and_shows_an_example(verb, run):
    code, out, err = run(verb, "--help")
    assert (code, err) == (0, "")
    assert VERBS[verb].example in out
    assert "==SUPPRESS==" not in out
    assert out.startswith(f"usage: multierase {verb}")
    assert max(len(line) for line in out.splitlines() if "example" not in line) <= 110


@pytest.mark.parametrize("verb", VERBS)
def test_no_two_options_of_a_verb_have_one_name(verb):
    names = [option.key for option in (*VERBS[verb].options(), *common())]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("verb", VERBS)
def test_examples_can_be_parsed(verb):
    import shlex

    words = shlex.split(VERBS[verb].example)
    assert words[:2] == ["multierase", verb]
    parser_of(verb).read(words[2:])


def test_every_method_is_described(run):
    text = " ".join(run("erase", "--help")[1].split())
    for name, method in METHODS.items():
        assert f"{name} {method.about.split(';')[0]}" in text


def test_dtypes_and_solves_are_those_of_the_library():
    from multierase.cli.option_groups import DTYPES
    from multierase.models.loading import DTYPES as loadable

    assert tuple(loadable) == DTYPES

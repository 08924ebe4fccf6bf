from typing import Literal

import pytest

from multierase.cli.flags import Option
from multierase.cli.parser import Parser
from multierase.errors import UsageError

OPTIONS = [
    Option("names", "names", several=True, default=[]),
    Option("--config", "a file"),
    Option("--json", "as JSON", switch=True),
    Option("--keep", "prompts", several=True),
    Option("--listed", "sets", several=True, grouped=True),
    Option("--ways", "which", type=Literal["slow", "fast"], several=True),
    Option("--solve", "how", type=Literal["sum", "joint"] | None),
    Option("--batch_size", "how many", type=int, default=4),
    Option("--stop_at", "when", type=float | None, default=-1.0),
    Option("--known", "whether", type=bool, default=True),
    Option("--judge", "its options", type=dict[str, str | float], default={}),
    Option("--library", "a folder", required=True),
]


def read(*arguments):
    return Parser(OPTIONS, prog="x").read([*arguments, "--library", "lib"])


def refused(*arguments):
    with pytest.raises(UsageError) as error:
        read(*arguments)
    return str(error.value)


def test_flags_take_several_values_and_are_repeatable():
    assert read("--keep", "a cat", "a cow", "--keep", "a pig").keep == ["a cat", "a cow", "a pig"]
    assert read("--keep", "a cat").keep == ["a cat"]
    assert read().keep == []


def test_each_use_of_a_grouped_flag_is_a_list_of_its_own():
    assert read("--listed", "A", "B", "--listed", "C").listed == [["A", "B"], ["C"]]


def test_two_parsers_share_no_default():
    read("--keep", "a cat", "--listed", "A")
    assert (read().keep, read().listed) == ([], [])


def test_dashes_and_underscores_are_the_same_flag():
    assert read("--batch-size", "2") == read("--batch_size", "2") == read("--batch-size=2")
    assert read("--keep", "a-b", "--keep=c-d").keep == ["a-b", "c-d"]  # values stay as they are


@pytest.mark.parametrize(("text", "value"), [("-1e-3", -1e-3), ("-2", -2.0), ("null", None)])
def test_negative_numbers_are_values(text, value):
    assert read("--stop-at", text).stop_at == value
    assert read(f"--stop-at={text}").stop_at == value


def test_text_is_not_read_as_yaml():
    assert read("--keep", "null", "true", "[a, b]", "1e3", "{x: 1}").keep == [
        "null", "true", "[a, b]", "1e3", "{x: 1}",
    ]  # fmt: skip
    assert read("null", "12").names == ["null", "12"]


def test_names_may_stand_before_or_after_the_flags():
    assert read("A", "B", "--json").names == ["A", "B"] == read("--json", "A", "B").names


def test_nested_options():
    assert read("--judge.model", "here").judge == {"model": "here"}


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--batch-siz", "2"], ["unknown setting 'batch_siz'; did you mean 'batch_size'?", "keep"]),
        (["--keeep=x"], ["unknown setting 'keeep'; did you mean 'keep'?"]),
        (["--judgge.model", "x"], ["unknown setting 'judgge'; did you mean 'judge'?"]),
        (["--solve", "jont"], ["--solve 'jont'; did you mean 'joint'?", "['joint', 'sum']"]),
        (["--batch-size", "many"], ["--batch-size 'many': give a whole number"]),
        (["--batch-size", "1.5"], ["--batch-size '1.5': give a whole number"]),
        (["--stop-at", "soon"], ["--stop-at 'soon': give a number or null"]),
        (["--known", "maybe"], ["--known 'maybe'", "['false', 'true']"]),
        (["--ways", "fast", "slw"], ["--ways 'slw'; did you mean 'slow'?", "['fast', 'slow']"]),
        (["--batch-size"], ["--batch-size: expected one argument"]),
        (["--json=1"], ["--json", "'1'"]),
        (["A", "--json", "B"], ["'B' is too much: names and prompts stand together"]),
    ],
)
def test_errors_name_the_flag_the_value_and_what_is_allowed(arguments, messages):
    said = refused(*arguments)
    assert all(message in said for message in messages), said
    assert "Parser key" not in said
    assert "typing" not in said


def test_what_is_missing_is_named():
    with pytest.raises(UsageError, match="--library is missing: a folder"):
        Parser(OPTIONS, prog="x").read(["A"])


# --- configuration files


def write(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_gives_the_same_values_as_flags(tmp_path):
    path = write(
        tmp_path,
        "names: [Van Gogh]\nkeep: [a cat, a-cow, -x]\nbatch-size: 2\nstop_at: -1e-3\n"
        "known: false\njson: true\nsolve: sum\nlisted: [[A, B], [C]]\njudge: {model: here}\n",
    )
    flags = read(
        "Van Gogh", "--keep", "a cat", "a-cow", "--keep=-x", "--batch-size", "2", "--stop-at",
        "-1e-3", "--known", "false", "--json", "--solve", "sum", "--listed", "A", "B", "--listed",
        "C", "--judge.model", "here", "--config", path,
    )  # fmt: skip
    assert vars(read("--config", path)) == vars(flags)


def test_null_in_a_file_is_none(tmp_path):
    read_back = read("--config", write(tmp_path, "stop_at: null\nsolve: null\n"))
    assert (read_back.stop_at, read_back.solve) == (None, None)


@pytest.mark.parametrize("before", [True, False])
def test_a_flag_wins_over_the_file_wherever_it_stands(tmp_path, before):
    config = ["--config", write(tmp_path, "batch_size: 2\nkeep: [a cat]\nnames: [A]\n")]
    flags = ["B", "--batch-size", "3", "--keep", "a cow"]
    given = read(*flags, *config) if before else read(*config, *flags[1:], "--json", "B")
    assert (given.batch_size, given.keep, given.names) == (3, ["a cow"], ["B"])


def test_a_required_flag_may_stand_in_the_file(tmp_path):
    config = write(tmp_path, "library: here\n")
    assert Parser(OPTIONS, prog="x").read(["--config", config]).library == "here"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("batch_siz: 2", ["unknown setting 'batch_siz'; did you mean 'batch_size'?"]),
        ("batch_size: many", ["--batch-size 'many': give a whole number"]),
        ("config: other.yaml", ["unknown setting 'config'"]),
        ("json: 3", ["json 3: give true or false"]),
        ("- a\n- b", ["give settings, one 'name: value' a line"]),
        ("keep: [", ["cannot be read as YAML"]),
        ("x: !!python/object/apply:os.getcwd []", ["cannot be read as YAML"]),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path, text, messages):
    said = refused("--config", write(tmp_path, text))
    assert all(message in said for message in messages), said


def test_a_missing_file_is_called_missing():
    said = refused("--config", "nowhere.yaml")
    assert said == "--config nowhere.yaml: there is no such file"

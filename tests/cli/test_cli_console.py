import json
import logging
import math

import pytest

from multierase.cli import console

HOSTILE = "\x1b]52;c;ZWNobw==\x07 [/x] [red]no[/red] :bomb: \x9b31m \u202e \ud800"


@pytest.fixture(autouse=True)
def eighty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def harmless(text):
    return all(char.isprintable() or char == "\n" for char in text)


def test_what_a_terminal_would_obey_is_shown(capsys):
    console.print_table(HOSTILE, ("name", HOSTILE), [(HOSTILE, 1)])
    console.print_lines([HOSTILE])
    console.say(HOSTILE, label="error: ", style="red")
    logger = logging.getLogger("test.hostile")
    logger.addHandler(console.ConsoleHandler())
    logger.warning("%s", HOSTILE)
    logger.handlers.clear()

    out, err = capsys.readouterr()
    assert harmless(out)
    assert harmless(err)
    for text in (out, err):
        assert "\\x1b]52" in text
        assert "[/x]" in text
        assert ":bomb:" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e-6, "1e-06"),
        (0.0, "0"),
        (-1.0, "-1"),
        (0.1234, "0.123"),
        (44, "44"),
        (12345.6, "12346"),
        (math.nan, "-"),
        (math.inf, "inf"),
        (None, "-"),
        (True, "yes"),
        (("a", 2), "a, 2"),
        ((), "-"),
    ],
)
def test_values_in_cells(value, shown):
    assert console.shown(value) == shown


def test_columns_that_do_not_fit_are_left_out_and_named(capsys):
    columns = ("concept", "file", "steps", "base")
    rows = [("Noto", "a-file-with-a-long-name.safetensors", 44, "a/long/path/to/some/base/model")]
    console.print_table("title", columns, rows)
    out = capsys.readouterr().out
    assert "a-file-with-a-long-name.safetensors" in out
    assert "44" in out
    assert "a/long" not in out
    assert "--json has base too" in " ".join(out.split())
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_column_that_must_stay_is_folded_and_not_cut(capsys):
    name = "x" * 200
    console.print_table("title", ("file", ""), [(name, "sound")])
    out = capsys.readouterr().out
    assert out.count("x") == 200
    assert "…" not in out


def test_a_pipe_gets_all_columns(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    console.print_table("title", ("concept", "file", "path"), [("Noto", "f" * 60, "p" * 60)])
    assert "p" * 60 in capsys.readouterr().out


def test_json_has_no_nan_and_is_one_line(capsys):
    console.print_json({"a": [math.nan, {"b": math.inf}], "c": HOSTILE[:-1], "d": (1, 2.5)})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.isascii()
    assert json.loads(out) == {"a": [None, {"b": None}], "c": HOSTILE[:-1], "d": [1, 2.5]}

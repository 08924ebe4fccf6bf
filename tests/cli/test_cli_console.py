import io
import json
import logging
import math
import sys

import pytest
from tqdm import tqdm

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
    logger.propagate = False  # pytest's own report of it could not be sent to another process
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


# --- bars where there is no terminal


def test_a_bar_in_a_file_is_its_last_state_in_one_line():
    file = io.StringIO()
    lines = console.Lines(file)
    for _ in tqdm(range(50), desc="erasing", file=lines, mininterval=0):
        pass
    print("done", file=lines)
    first, second = file.getvalue().splitlines()
    assert first.startswith("erasing: 100%")
    assert "50/50" in first
    assert second == "done"
    assert "\r" not in file.getvalue()


def test_a_bar_over_another_one_leaves_lines_and_no_cursor():
    file = io.StringIO()
    lines = console.Lines(file)
    with tqdm(total=2, desc="sets", file=lines, mininterval=0) as outer:
        for _ in range(2):
            for _ in tqdm(range(3), desc="pictures", file=lines, mininterval=0, leave=False):
                pass
            outer.update()
    written = file.getvalue()
    assert "\x1b[A" not in written
    assert written.rstrip().splitlines()[-1].startswith("sets: 100%")
    assert "\r" not in written


def test_a_long_run_writes_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    lines = console.Lines(file)
    for step in range(100):
        now[0] = 10.0 * step
        lines.write(f"\rsets: {step}")
    lines.end()
    written = file.getvalue().splitlines()
    assert 14 <= len(written) <= 17  # a thousand seconds
    assert written[-1] == "sets: 99"


def test_what_is_no_bar_is_written_at_once():
    file = io.StringIO()
    lines = console.Lines(file)
    lines.write("a question: ")
    assert file.getvalue() == "a question: "
    lines.write("yes\n\rbar 1\rbar 2")
    assert file.getvalue() == "a question: yes\n"
    lines.end()
    lines.end()
    assert file.getvalue() == "a question: yes\nbar 2\n"
    assert lines.getvalue() == file.getvalue()  # all else is the stream's own


def test_only_what_is_no_terminal_gets_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, changed in ((io.StringIO(), True), (Terminal(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with console.in_lines():
            assert isinstance(sys.stderr, console.Lines) == changed
            sys.stderr.write("\rhalf")
        assert sys.stderr is stream
        assert stream.getvalue() == ("half\n" if changed else "\rhalf")


def test_whose_warning_it_is(capsys):
    handler = console.ConsoleHandler()
    for name in ("multierase.x", "diffusers.models.y"):
        record = logging.LogRecord(name, logging.WARNING, "f", 1, "odd", (), None)
        handler.emit(record)
    assert capsys.readouterr().err == "warning: odd\nwarning of diffusers: odd\n"


def test_counts_are_in_english():
    assert console.counted(1, "file") == "1 file"
    assert console.counted(0, "file") == "0 files"


def test_the_next_step_is_quoted_for_a_shell(capsys):
    console.next_step("erase", "Van Gogh", "--library", "lib")
    assert capsys.readouterr().err == "next: multierase erase 'Van Gogh' --library lib\n"

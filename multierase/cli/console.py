"""Tables, messages and log lines for a terminal, with nothing in them that it would obey."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import rich.box
import rich.console
import rich.table
from rich.text import Text

from multierase.files import plain

PIPED = 200  # columns where nobody looks: a table in a file or a pipe is not cut
NUMBER = re.compile(r"-|-?[0-9.]+(e[-+]?[0-9]+)?%?")
GAP = 2  # blanks between two columns of a table
DEGREE = "1 on the base, 0 or less when the concept is gone"  # what an erasure degree says
EVERY, SELDOM = 60.0, 10.0  # seconds between two lines of a bar that nobody watches; at least


class Console(rich.console.Console):
    """A console that obeys no markup, and leaves a closed pipe to ``main``."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


stderr = Console(stderr=True)


def say(message: str, *, label: str = "", style: str = "") -> None:
    """Print a message on stderr, so that it never mixes with a report on stdout."""
    lines = "\n".join(plain(line) for line in str(message).split("\n"))
    stderr.print(Text.assemble((label, style), lines), soft_wrap=True)


def next_step(verb: str, *words: str) -> None:
    """Say what may be typed next."""
    say(f"next: {shlex.join(('multierase', verb, *words))}")


class ConsoleHandler(logging.Handler):
    """Prints log records on stderr; a name or a path that they quote may be hostile too."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            told = record.levelno <= logging.INFO
            style = "red" if record.levelno >= logging.ERROR else "yellow"
            # Whose message it is, where it is not ours.
            library = record.name.partition(".")[0]
            by = "" if library == "multierase" else f" of {library}"
            label = "" if told else f"{record.levelname.lower()}{by}: "
            say(record.getMessage(), label=label, style=style)
        except Exception:  # as every handler: a log line that cannot be written ends no work
            self.handleError(record)


@contextlib.contextmanager
def in_lines() -> Iterator[None]:
    """Let a log file have a bar's last state alone, where stderr is no terminal."""
    stream = sys.stderr
    if stream is None or stream.isatty():
        yield
        return

    # A bar under another one begins a new line each time: seldom, then. tqdm reads it on import.
    os.environ.setdefault("TQDM_MININTERVAL", str(SELDOM))
    lines = sys.stderr = Lines(stream)
    try:
        yield
    finally:
        sys.stderr = stream
        lines.end()


class Lines:
    """A stream that writes what a terminal would show: of a line that is drawn again, the last.

    What follows a carriage return takes the place of the line so far. It is written when the line
    ends, and about once a minute before that.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._redrawn: str | None = None  # the line as it was last drawn; None if it is not
        self._written = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        # A bar above another one moves the cursor, which a file does not have.
        for part in re.findall(r"\r|\n|[^\r\n]+", text.replace("\x1b[A", "")):
            if part == "\r":
                self._redrawn = ""
            elif self._redrawn is None:
                self._stream.write(part)
            elif part == "\n":
                self.end()
            else:
                self._redrawn += part

        if self._redrawn and time.monotonic() - self._written > EVERY:
            self._put(self._redrawn)
            self._redrawn = ""
        return len(text)

    def end(self) -> None:
        """Write the line that is being drawn, if there is one."""
        line, self._redrawn = self._redrawn, None
        if line and line.strip():
            self._put(line)

    def _put(self, line: str) -> None:
        self._stream.write(line.rstrip() + "\n")
        self._stream.flush()
        self._written = time.monotonic()


def shown(value: object) -> str:
    """Return a value as a cell of a table: ``1e-06``, not ``0.00``; ``-`` if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        small = value != 0 and abs(value) < 1e-3
        return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.{2 if small else 3}g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "-"
    return plain(str(value))


def percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{share:.1%}"


def counted(number: int, what: str) -> str:
    """Return ``1 file`` or ``2 files``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, needed: int = 2
) -> None:
    """Print a table on stdout: for people; scripts take ``--json``.

    Columns stand in the order of their weight: where the terminal is too narrow the last ones are
    left out, and the table says so, for a column of cut names tells nothing. The first ``needed``
    stay, and are folded where even they are too wide.
    """
    console = _stdout()
    cells = [[shown(cell) for cell in row] for row in rows]
    count = _fitting(columns, cells, console.width, needed)

    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, GAP - 1, 0, 0),  # the box adds one
        pad_edge=False,
        show_edge=False,
        show_header=any(columns),
    )
    for index, column in enumerate(columns[:count]):
        right = index > 0 and all(NUMBER.fullmatch(row[index]) for row in cells)
        table.add_column(Text(plain(column)), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row[:count]))

    console.print(Text(plain(title), "bold"))
    console.print(table)
    if count < len(columns):
        console.print(Text(f"--json has {', '.join(columns[count:])} too", "dim"))
    console.print()


def print_lines(lines: Sequence[str]) -> None:
    """Print paragraphs on stdout, wrapped to the terminal."""
    console = _stdout()
    for line in lines:
        console.print(Text(plain(line)))


def print_json(report: Mapping) -> None:
    """Print the one JSON object of a verb; what is not known or not finite is null."""
    print(json.dumps(finite(report), default=str))


def finite(value: object) -> object:
    """A report as JSON can say it: there is no NaN and no infinity in JSON."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _stdout() -> Console:
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED
    return Console(width=width)


def _fitting(
    columns: Sequence[str], cells: Sequence[Sequence[str]], width: int, needed: int
) -> int:
    """How many of the columns, from the first on, fit side by side; at least ``needed``."""
    used = 0
    for index, column in enumerate(columns):
        used += max(Text(text).cell_len for text in (column, *(row[index] for row in cells))) + GAP
        if used - GAP > width and index >= needed:
            return index
    return len(columns)

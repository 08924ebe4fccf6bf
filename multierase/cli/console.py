"""Tables, messages and log lines for a terminal, with nothing in them that it would obey."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
from rich.text import Text

from multierase.files import plain

PIPED = 200  # columns where nobody looks: a table in a file or a pipe is not cut
NUMBER = re.compile(r"-|-?[0-9.]+(e[-+]?[0-9]+)?%?")
GAP = 2  # blanks between two columns of a table


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


class ConsoleHandler(logging.Handler):
    """Prints log records on stderr; a name or a path that they quote may be hostile too."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            told = record.levelno <= logging.INFO
            style = "red" if record.levelno >= logging.ERROR else "yellow"
            label = "" if told else f"{record.levelname.lower()}: "
            say(record.getMessage(), label=label, style=style)
        except Exception:  # as every handler: a log line that cannot be written ends no work
            self.handleError(record)


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

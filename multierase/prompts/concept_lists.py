"""Lists of concepts to erase, a file of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multierase.errors import PromptFileError, suggest

COLUMNS = ("concept", "kind", "anchor", "siblings")
BETWEEN = ";"  # siblings in a cell
COMMENT = "#"


@dataclass(frozen=True)
class ListedConcept:
    """A line of a list: a concept's name, and what is its own there.

    Args:
        kind: how people speak of it; ``None`` for what all concepts have.
        anchor: prompt of what takes its place, in the same way.
        siblings: names like its own that are to stay, in the same way.
    """

    name: str
    kind: str | None = None
    anchor: str | None = None
    siblings: tuple[str, ...] | None = None


def read_concepts(path: str | Path) -> list[ListedConcept]:
    """Read concepts from a text file, one a line, or from a CSV with a column ``concept``.

    In a text, lines that begin with ``#`` say nothing. A CSV may have the columns ``kind``,
    ``anchor`` and ``siblings``, these with ``;`` between them; an empty cell is not given.

    Raises:
        FileNotFoundError: if there is no such file.
        PromptFileError: for a file that cannot be read, an unknown column, a row without a name or
            with more cells than columns, or no concept at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no concepts at {path}: give a .txt, one name a line, or a .csv with a column "
            f"{COLUMNS[0]!r}"
        )

    try:
        read = _rows(path) if path.suffix.lower() == ".csv" else _lines(path)
        concepts = list(read)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PromptFileError(
            f"{path} cannot be read as UTF-8 text of concepts: {error}"
        ) from error
    if not concepts:
        raise PromptFileError(f"{path} holds no concept")

    return concepts


def _lines(path: Path) -> Iterator[ListedConcept]:
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        name = line.strip()
        if name and not name.startswith(COMMENT):
            yield ListedConcept(name)


def _rows(path: Path) -> Iterator[ListedConcept]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = list(rows.fieldnames or ())
        unknown = [column for column in columns if column not in COLUMNS]
        if unknown or COLUMNS[0] not in columns or len(set(columns)) < len(columns):
            hint = suggest(unknown[0], COLUMNS) if unknown else ""
            raise PromptFileError(
                f"{path}: its columns are {columns}{hint}; give {COLUMNS[0]!r}, and each of "
                f"{list(COLUMNS[1:])} at most once"
            )

        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if any(cell.strip() for cell in row.pop(None, None) or ()):
                raise PromptFileError(
                    f"{where}: more cells than there are columns; put text with commas in quotes"
                )
            given = {key: (cell or "").strip() for key, cell in row.items()}
            if not given["concept"]:
                raise PromptFileError(f"{where}: no concept")
            yield _concept(given)


def _concept(given: dict[str, str]) -> ListedConcept:
    siblings = [name.strip() for name in given.get("siblings", "").split(BETWEEN)]

    return ListedConcept(
        given["concept"],
        given.get("kind") or None,
        given.get("anchor") or None,
        tuple(filter(None, siblings)) or None,
    )

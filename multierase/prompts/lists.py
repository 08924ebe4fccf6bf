"""Lists of prompts, and which concepts each of them is about."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multierase.errors import PromptFileError, suggest


@dataclass(frozen=True)
class TaggedPrompt:
    """A prompt of a list, and the concepts that it is about: the other columns of its row."""

    prompt: str
    concepts: frozenset[str] = frozenset()


def read_prompts(path: str | Path) -> list[TaggedPrompt]:
    """Read prompts from a text file, one a line, or from a CSV with a column ``prompt``.

    The CSV's other columns (``artist``, ``studio``, ``subject``, ...) say which concepts a prompt
    is about. The peers' files have this form.

    Raises:
        FileNotFoundError: if there is no such file.
        PromptFileError: for a file that cannot be read, without that column, or without a prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prompts at {path}: give a .txt, one prompt a line, or a .csv")

    try:
        read = _read_csv(path) if path.suffix.lower() == ".csv" else _read_text(path)
        prompts = [tagged for tagged in read if tagged.prompt]
    except (UnicodeDecodeError, csv.Error) as error:
        raise PromptFileError(f"{path} cannot be read as UTF-8 text of prompts: {error}") from error

    if not prompts:
        raise PromptFileError(f"{path} holds no prompt")

    return prompts


def not_about(prompts: Sequence[TaggedPrompt], *concepts: str) -> list[str]:
    """Return those of ``prompts`` that are about none of ``concepts``, in order."""
    named = {concept.lower() for concept in concepts}

    return [tagged.prompt for tagged in prompts if not tagged.concepts & named]


def known_concepts(prompts: Sequence[TaggedPrompt]) -> set[str]:
    """Return every concept that a prompt of the list is about, in lower case."""
    return {concept for tagged in prompts for concept in tagged.concepts}


def unknown_to(prompts: Sequence[TaggedPrompt], concept: str) -> str | None:
    """Return a warning if a list that names concepts names none of this name, else ``None``."""
    known = known_concepts(prompts)
    if not known or concept.lower() in known:
        return None

    return (
        f"the base's list of prompts has no concept {concept!r}{suggest(concept, known)}; if the "
        "base cannot draw it, there is nothing to erase"
    )


def _read_text(path: Path) -> Iterator[TaggedPrompt]:
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        yield TaggedPrompt(line.strip())


def _read_csv(path: Path) -> Iterator[TaggedPrompt]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or ()
        if "prompt" not in columns:
            raise PromptFileError(f"{path}: no column 'prompt'; its columns are {sorted(columns)}")
        for row in rows:
            prompt = row.pop("prompt") or ""
            yield TaggedPrompt(prompt.strip(), _concepts(row))


def _concepts(row: dict) -> frozenset[str]:
    """Return the names in a row's other columns; a row that is too long has a list among them."""
    cells = (cell.strip().lower() for cell in row.values() if isinstance(cell, str))

    return frozenset(cell for cell in cells if cell)

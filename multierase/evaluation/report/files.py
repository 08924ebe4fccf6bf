"""The files of a report: a page, its table as CSV and LaTeX, and every picture as Parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multierase.errors import DatabaseError, WriteError
from multierase.evaluation.report.html import render_page
from multierase.evaluation.report.rows import Rows, made
from multierase.evaluation.report.tables import (
    as_csv,
    as_latex,
    by_size,
    require_parquet,
    write_pictures,
)
from multierase.evaluation.store import Store, differences
from multierase.files import replacing, write_text

COMPARED = (  # what the databases of one table have in common
    "base",
    "dtype",
    "suite",
    "judge",
    "distance_by",
    "frechet_by",
    "measured_by",
    "reference",
    "sampling",
)
PICTURES = "pictures.parquet"


@dataclass(frozen=True)
class Written:
    """A report that is written: its files, and by database how many sets it has and from what."""

    files: list[Path]
    databases: dict[str, dict]


def write_report(
    paths: Sequence[str | Path], folder: str | Path, *, parquet: bool = False
) -> Written:
    """Write ``index.html``, ``table.csv`` and ``table.tex`` into ``folder``.

    Several databases, such as of several methods, come into one table. They are opened to be read
    only.

    Args:
        parquet: write ``pictures.parquet`` too: every picture's verdict. Needs pyarrow.

    Raises:
        FileNotFoundError: if there is no such database.
        DatabaseError: for a file that is none, one in which no set is finished, or databases that
            cannot be compared.
        MissingExtra: without pyarrow.
        WriteError: if the folder cannot be written.
    """
    if parquet:
        require_parquet()

    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(Store.reading(path)) for path in paths]
        _require_comparable(stores)
        parts = {label: Rows(store) for label, store in _labelled(stores).items()}
        rows = {label: _finished(part) for label, part in parts.items()}

        files = _write(Path(folder), parts, rows, parquet)
        databases = {}
        for store in stores:
            databases[str(store.path)] = {"sets": len(store.done()), **made(store)}

    return Written(files, databases)


def _write(
    folder: Path, parts: Mapping[str, Rows], rows: Mapping[str, list[dict]], parquet: bool
) -> list[Path]:
    title = ", ".join(part.store.path.name for part in parts.values())
    table = [{"method": label, **row} for label, found in rows.items() for row in found]
    texts = {
        "index.html": render_page(title, parts, rows),
        "table.csv": as_csv(table),
        "table.tex": as_latex({label: by_size(found) for label, found in rows.items()}),
    }

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make the folder {folder}: {error.strerror}") from error
    for name, text in texts.items():
        write_text(folder / name, text)
    if parquet:
        with replacing(folder / PICTURES) as temporary:
            write_pictures(parts, temporary)

    return [folder / name for name in [*texts, *[PICTURES] * parquet]]


def _finished(part: Rows) -> list[dict]:
    rows = part.rows()
    if not rows:
        raise DatabaseError(
            f"{part.store.path} holds no finished set: run `multierase sweep` with it again"
        )

    return rows


def _require_comparable(stores: Sequence[Store]) -> None:
    first, *others = stores
    for other in others:
        here, there = first.settings(), other.settings()
        wrong = {}
        for key in COMPARED:
            if here.get(key) != there.get(key):
                wrong[key] = (here.get(key), there.get(key))

        if wrong or first.cases() != other.cases():
            described = differences(wrong, first.path.name, other.path.name) or "the suite's cases"
            raise DatabaseError(
                f"{first.path} and {other.path} cannot stand in one table: they differ in "
                f"{described}; make both with the same base, suite, judge, measures and sampling"
            )


def _labelled(stores: Sequence[Store]) -> dict[str, Store]:
    """Return the stores by method; with the file's name where a method comes twice."""
    methods = [str(store.settings().get("method", store.path.stem)) for store in stores]

    labelled = {}
    for method, store in zip(methods, stores, strict=True):
        once = methods.count(method) == 1
        labelled[method if once else f"{method} ({store.path})"] = store

    return labelled

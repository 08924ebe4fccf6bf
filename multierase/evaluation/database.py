"""An SQLite file: opened, locked and written whole, with its errors explained."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from multierase.errors import DatabaseError

WAIT = 10.0  # seconds for another program to let go of the file
# By a part of SQLite's message, what to do about it.
ADVICE = {
    "locked": "another program is using it: wait until it has finished",
    "readonly": "make the file and its folder writable, or give another file",
    "disk is full": "make room, and the same command goes on",
    "disk I/O": "its disk cannot be read or written; every finished set is kept",
    "unable to open": "give a file in a folder that exists and that you may use",
    "not a database": "give another file",
    "malformed": "the file is damaged: give another file",
    "no such": "it is damaged, or of another program: give another file",
}


class Database:
    """An SQLite file whose errors are ``DatabaseError`` and say what to do.

    Args:
        path: the file.
        mode: SQLite's ``rwc``, to read, write and create, or ``ro``, to read only.
    """

    def __init__(self, path: str | Path, mode: str = "rwc"):
        self.path = Path(path)
        with self._explained():
            address = f"{Path(os.path.abspath(path)).as_uri()}?mode={mode}"
            self._connection = sqlite3.connect(
                address, uri=True, isolation_level=None, timeout=WAIT
            )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def rows(self, query: str, *values: object) -> list[tuple]:
        """Return what a query finds."""
        with self._explained():
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all that the block writes, or nothing."""
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        # SQLite has done it itself where the disk was full, and would refuse to do it again.
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _explanation(self.path, error) from error


def _explanation(path: Path, error: sqlite3.Error) -> DatabaseError:
    said = str(error)
    if getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_ROLLBACK":
        return DatabaseError(
            f"{path} was left by a sweep that was killed while it wrote: run the same sweep again, "
            "which mends it"
        )

    advice = [advice for part, advice in ADVICE.items() if part in said]
    return DatabaseError(
        f"{path} cannot be used as a sweep's database ({said}): "
        f"{advice[0] if advice else 'give another file'}"
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other sweeps from ``path`` for a ``with`` block; the end of the process ends it, too.

    Raises:
        DatabaseError: if another sweep has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: SQLite's own locks still keep every set whole
        yield
        return

    beside = path.with_name(path.name + ".lock")
    descriptor = _opened(path, beside)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _taken(path) from error

        # Between opening and locking, the one before us may have removed this very name.
        if not _is_named(descriptor, beside):
            raise _taken(path)
        try:
            yield
        finally:
            beside.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_named(descriptor: int, name: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False


def _taken(path: Path) -> DatabaseError:
    return DatabaseError(
        f"another sweep is writing into {path}: wait until it has finished, or give another file"
    )


def _opened(path: Path, beside: Path) -> int:
    try:
        return os.open(beside, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise DatabaseError(
            f"{path} cannot be kept from other sweeps: {beside} cannot be made "
            f"({error.strerror}): give a file in a folder that you may write"
        ) from error

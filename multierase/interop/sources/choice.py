"""Which format a file has."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from multierase.errors import WeightsFileError
from multierase.interop.naming import Names
from multierase.interop.reading import Found
from multierase.interop.sources import SOURCES
from multierase.interop.sources.peer import Peer
from multierase.interop.sources.refused import require_readable


class Reader(Protocol):
    """A module that reads a format."""

    def matches(self, found: Found) -> bool:
        """Tell whether a file is of this format."""

    def read(self, found: Found, names: Names) -> Peer:
        """Return what it holds. Raises ``WeightsFileError`` for what cannot be read."""


def reader_of(name: str) -> Reader:
    """Return the module that reads a format; it is imported when it is first needed."""
    return import_module(f"multierase.interop.sources.{name}")


def recognise(found: Found) -> Reader:
    """Return the module that reads a file.

    Raises:
        WeightsFileError: for a file of no known format, with what was seen and what is known.
    """
    require_readable(found)
    for name in SOURCES:
        reader = reader_of(name)
        if reader.matches(found):
            return reader

    known = "; ".join(f"{source.about} ({source.writers})" for source in SOURCES.values())
    raise WeightsFileError(
        f"{found.path} is of no format that is known: a {found.container} with {found.count} "
        f"tensors, such as {found.some_names()}. Known are: {known}"
    )

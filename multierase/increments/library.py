"""A library: a folder of increment files, one file per concept."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multierase.errors import AlreadyThere, IncrementFileError, UnknownConcept, WriteError, suggest
from multierase.files import collect_left_over, plain, require_writable
from multierase.increments.header import Header, read_header
from multierase.increments.hub import is_on_hub, local_copy
from multierase.prompts.concepts import require_distinct, slug

if TYPE_CHECKING:
    from multierase.increments.value import Increment

SUFFIX = ".safetensors"
LONGEST_FILE_NAME = 255  # bytes

Stamp = tuple[int, int, int]  # of a file: time of change, size, inode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A file of the folder: its header, or what is wrong with it."""

    path: Path
    stamp: Stamp
    header: Header | None
    problem: str | None


class Library(Mapping[str, "Increment"]):
    """A folder of increment files: a mapping from concept names to increments.

    Headers are read when the folder is listed, tensors when an increment is taken; both are
    read again if the file has changed. A file that is not sound is left out, with a warning, and
    listed by ``problems``.

    Args:
        folder: where the files are, or ``hf://owner/name`` for a repository on a hub, which is read
            as it is.
        create: make the folder if it is not there.

    Raises:
        FileNotFoundError: if there is no such folder, unless ``create``, or no such repository.
        WriteError: if it cannot be made, as on a hub.
    """

    def __init__(self, folder: str | Path, *, create: bool = False):
        self._address = str(folder) if is_on_hub(folder) else None
        if self._address is not None and not create:
            folder = local_copy(self._address)
        self.folder = Path(folder)
        if create:
            self._require_own()
            _make(self.folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"no library folder {self.folder}: `multierase erase --library {self.folder}` "
                "makes one"
            )

        self._entries: dict[str, Entry] = {}
        self._loaded: dict[Path, tuple[Stamp, Increment]] = {}
        self._warned: set[Path] = set()

    def headers(self) -> dict[str, Header]:
        """Return by concept what its file says of itself, sorted by name."""
        sound = [entry.header for entry in self._scan() if entry.header is not None]

        return {header.concept: header for header in sorted(sound, key=lambda h: h.concept)}

    def questions(self) -> dict[str, list[dict[str, str]]]:
        """Return by concept the questions that its certificate was made of, where it has one."""
        found = {}
        for name, header in self.headers().items():
            asked = (header.provenance.certificate or {}).get("questions")
            if asked:
                found[name] = asked

        return found

    def problems(self) -> dict[Path, str]:
        """Return what is wrong with each file that is no sound increment of this library."""
        found = {}
        for entry in self._scan(warn=False):
            if entry.problem is not None:
                found[entry.path] = entry.problem
        self._warned.update(found)  # whoever asks is told here

        return found

    def path(self, concept: str) -> Path:
        """Return where the concept's file is or would be."""
        return self.folder / (slug(concept) + SUFFIX)

    def check_targets(self, concepts: Sequence[str], *, overwrite: bool = False) -> None:
        """Check that every one of these concepts could be saved, before any work is done.

        Raises:
            UsageError: for a concept given twice, or two whose files would be one.
            AlreadyThere: for a file that is there, unless ``overwrite``; for another concept's file
                always.
            WriteError: for a name that is too long, or a folder that cannot be written.
        """
        self._require_own()
        require_distinct(concepts)
        for concept in concepts:
            path = self.path(concept)
            if len(path.name.encode()) > LONGEST_FILE_NAME:
                raise WriteError(f"{path.name[:60]}... is too long for a file name")
            self._require_free(concept, overwrite)
            if path.is_dir():
                raise WriteError(f"{path} is a folder: remove it, or give another name")

        require_writable(self.folder)

    def save(self, increment: Increment, *, overwrite: bool = False) -> Path:
        """Store an increment under its concept's name.

        Raises:
            AlreadyThere: for a file that is there, unless ``overwrite``; for another concept's file
                always.
            IncrementFileError, WriteError: see ``save_increment``.
        """
        from multierase.increments.format import save_increment

        self._require_own()
        self._require_free(increment.concept, overwrite)
        return save_increment(increment, self.path(increment.concept), overwrite=overwrite)

    def remove(self, concept: str) -> None:
        """Delete the concept's file. Raises ``UnknownConcept`` if there is none."""
        self._require_own()
        self.require([concept])
        self.path(concept).unlink()

    def rename(self, concept: str, name: str) -> Path:
        """Give a concept another name, and its file the name that goes with it.

        The new file is written whole before the old one is deleted.

        Raises:
            UnknownConcept: if there is no such concept.
            AlreadyThere: for a name whose file is another concept's.
            ValueError, WriteError: for a name that cannot be a concept's or a file's.
        """
        from multierase.increments.format import save_increment

        self._require_own()
        renamed = self[concept].named(name)
        old, new = self.path(concept), self.path(name)
        same = old == new  # "noto" and "Noto" have one file
        if not same:
            self.check_targets([name])

        save_increment(renamed, new, overwrite=same)
        if not same:
            old.unlink()
        return new

    def require(self, concepts: Iterable[str]) -> None:
        """Raise ``UnknownConcept``, with the nearest match, for concepts that are not here."""
        missing = [concept for concept in concepts if concept not in self]
        if not missing:
            return

        here, problems = list(self), self.problems()
        named = [f"{concept!r}{suggest(concept, here)}" for concept in missing]
        reasons = [problems[self.path(c)] for c in missing if self.path(c) in problems]
        raise UnknownConcept(
            f"not in library {self.folder}: {', '.join(named)}; it holds {here}"
            + "".join(f"; {reason}" for reason in reasons)
        )

    def header(self, concept: str) -> Header:
        """Return what one concept's file says of itself.

        Raises:
            UnknownConcept: if it is not here, or not sound.
        """
        entry = self._entry(self.path(concept))
        if entry is None or entry.header is None or entry.header.concept != concept:
            self.require([concept])
            raise UnknownConcept(f"not in library {self.folder}: {concept!r}")

        return entry.header

    def __getitem__(self, concept: str) -> Increment:
        from multierase.increments.format import read_increment

        header = self.header(concept)
        stamp = self._entries[header.path.name].stamp
        if self._loaded.get(header.path, (None,))[0] != stamp:
            self._loaded[header.path] = (stamp, read_increment(header))

        return self._loaded[header.path][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers())

    def __len__(self) -> int:
        return len(self.headers())

    def __contains__(self, concept: object) -> bool:
        """Read one file's header, not all of them."""
        if not isinstance(concept, str) or not concept.strip():
            return False
        entry = self._entry(self.path(concept))

        return entry is not None and entry.header is not None and entry.header.concept == concept

    def _scan(self, *, warn: bool = True) -> list[Entry]:
        with os.scandir(self.folder) as found:
            files = sorted((entry.name, _stamp_of(entry)) for entry in found if _is_file(entry))

        there = []
        for name, stamp in files:
            # A composer looks at each switch: a file that is known costs no more than its stamp.
            entry = self._entries.get(name)
            if entry is None or entry.stamp != stamp:
                entry = self._entry(self.folder / name)
            if entry is not None:
                there.append(entry)

        for entry in there:
            if warn and entry.problem is not None and entry.path not in self._warned:
                self._warned.add(entry.path)
                logger.warning("left out: %s", entry.problem)
        return there

    def _entry(self, path: Path) -> Entry | None:
        """Return the entry of a file, read anew if the file has changed; ``None`` without one."""
        try:
            stamp = _stamp(os.stat(path))
        except OSError as error:
            if not os.path.lexists(path):
                return None
            problem = plain(f"{path} cannot be read: {error.strerror}")
            return Entry(path, (0, 0, 0), None, problem)

        known = self._entries.get(path.name)
        if known is None or known.stamp != stamp:
            known = self._entries[path.name] = _read(path, stamp)
        return known

    def _require_own(self) -> None:
        if self._address is not None:
            raise WriteError(
                f"{self._address} is on a hub, where nothing is written: give a folder, and upload "
                "it when it is done"
            )

    def _require_free(self, concept: str, overwrite: bool) -> None:
        """Raise ``AlreadyThere`` if saving this concept would take something away unasked."""
        path = self.path(concept)
        entry = self._entry(path)
        if entry is None:
            return
        if entry.header is not None and entry.header.concept != concept:
            other = entry.header.concept
            raise AlreadyThere(f"{path} holds the concept {other!r}: give {concept!r} another name")
        if overwrite:
            return

        there = (
            f"{concept!r} is in library {self.folder} already"
            if entry.header is not None
            else f"{path} is there and is no sound increment"
        )
        raise AlreadyThere(
            f"{there}: replace it with --overwrite (overwrite=True), or use another library"
        )


def _read(path: Path, stamp: Stamp) -> Entry:
    try:
        header = read_header(path)
    except (IncrementFileError, OSError) as error:
        return Entry(path, stamp, None, plain(error))

    wanted = slug(header.concept) + SUFFIX
    if path.name != wanted:
        problem = (
            f"{path} holds the concept {header.concept!r}, whose file is {wanted}: it was renamed "
            "or copied; give it that name, or move it away"
        )
        return Entry(path, stamp, None, plain(problem))

    return Entry(path, stamp, header, None)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make library folder {folder}: {error.strerror}") from error

    collect_left_over(folder)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(SUFFIX) and not entry.name.startswith(".")


def _stamp_of(entry: os.DirEntry[str]) -> Stamp:
    """Return the stamp of a folder's entry; one that cannot be read has none, and is looked at."""
    try:
        return _stamp(entry.stat())
    except OSError:
        return 0, 0, 0


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino

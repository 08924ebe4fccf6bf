"""What the tab ``Exchange`` does: a peer's file in, the erased set out as a file of others' tools.

An uploaded file is untrusted: it is read as the command line reads it, executes nothing, and is
removed as soon as it has been taken in or refused.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multierase.app.session import Session
from multierase.errors import ConceptRefused, UsageError, WeightsFileError
from multierase.increments.provenance import in_words, set_in_words, step_in_words
from multierase.interop.reading import read
from multierase.interop.sources import SOURCES, ImportSettings
from multierase.interop.sources.choice import reader_of, recognise
from multierase.interop.targets import TARGETS, ExportSettings, target_named
from multierase.prompts.concepts import check_name, slug
from multierase.workspace import Trained

LONGEST_NAME = 80  # characters of the concepts in a file's name


@dataclass(frozen=True)
class Said:
    """What there is to say: facts, and what was warned of, a sentence each."""

    facts: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """A file to be downloaded, and what there is to say about it."""

    path: Path
    said: Said


def recognised(path: str | Path, uploads: str | Path) -> str:
    """Say what an uploaded file is, before anything is asked of the model.

    Args:
        uploads: the folder of uploaded files; a path elsewhere is refused.

    Raises:
        UsageError: for a path that is no uploaded file.
        WeightsFileError: for a file of no known format, or one that would run code. It is removed.
    """
    path = _uploaded(path, uploads)
    with _removed_if_refused(path):
        found = read(path)
        reader = recognise(found)

    source = next(about for name, about in SOURCES.items() if reader_of(name) is reader)
    return (
        f"{path.name}, a {found.container} of {found.count} tensors: {source.about}, as by "
        f"{source.writers.replace('`', '')}"
    )


def bring_in(
    session: Session,
    path: str | Path,
    uploads: str | Path,
    concept: str,
    settings: ImportSettings,
    *,
    overwrite: bool = False,
) -> Said:
    """Save an increment of an uploaded file, and say what it is and does.

    Args:
        uploads: the folder of uploaded files; a path elsewhere is refused.

    Raises:
        UsageError, AlreadyThere, ValueError: for a concept or kind that cannot be.
        ConceptRefused: if the base does not draw a concept; the uploaded file stays, for another
            kind.
        WeightsFileError: for a file that cannot be read safely, or is of another base; it is
            removed, and nothing is written.
    """
    path, concept = _uploaded(path, uploads), check_name(concept.strip())
    _require_offered(session, settings)
    session.workspace.library.check_targets([concept], overwrite=overwrite)

    with _removed_if_refused(path), session.alone() as workspace, _warned() as warnings:
        imported = workspace.import_file(path, concept, settings, overwrite=overwrite)

    _remove(path)
    return Said(tuple(_told_of(imported)), tuple(warnings))


def hand_out(
    session: Session,
    erased: Mapping[str, float],
    to: str,
    settings: ExportSettings,
    folder: str | Path,
) -> Exported:
    """Write what is erased in a format of other tools; a folder becomes a zip file.

    Args:
        erased: strengths by concept.
        to: a name in ``TARGETS``.
        folder: where the file is made, in a folder of its own.

    Raises:
        UsageError: for an unknown format, one that the base does not have, or nothing erased.
        UnknownConcept: for a concept that is not in the library.
    """
    target = target_named(str(to))
    Path(folder).mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="export-", dir=folder))  # a name that nobody can guess
    try:
        with session.lock, _warned() as warnings:
            now = session.compose(erased).erased
            if not now:
                raise UsageError(
                    "nothing is erased, so there is nothing to export: switch a concept on the tab "
                    "Compose first"
                )
            out = own / (_file_name(now, to) + next(iter(target.suffixes), ""))
            written = session.workspace.export(out, to, settings)
        path = out if target.suffixes else _zipped(out)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise

    return Exported(path, Said(tuple(_told_about(path, to, written)), tuple(warnings)))


def discard(path: str | Path | None, uploads: str | Path) -> None:
    """Remove an uploaded file that is not wanted any more; a path elsewhere stays."""
    with contextlib.suppress(UsageError):
        _remove(_uploaded(path or "", uploads))


def _uploaded(path: str | Path, uploads: str | Path) -> Path:
    """Return the path of an uploaded file, and of nothing else that this machine holds."""
    given, folder = Path(path), Path(uploads).resolve()
    if not (given.is_file() and given.resolve().is_relative_to(folder)):
        raise UsageError("give a file: drop one first, of one of the formats that are listed")

    return given


@contextlib.contextmanager
def _removed_if_refused(path: Path) -> Iterator[None]:
    """Remove an uploaded file if the block refuses it; what depends on the kind is no refusal."""
    try:
        yield
    except ConceptRefused:
        raise
    except WeightsFileError as error:
        _remove(path)
        # Where it lay is this machine's own affair.
        raise WeightsFileError(str(error).replace(str(path), path.name)) from error
    except BaseException:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others' files may lie beside it
        path.parent.rmdir()


def _require_offered(session: Session, settings: ImportSettings) -> None:
    """Refuse what the page does not offer: elsewhere a kind or a model may be any path."""
    session.require_kind(settings.kind)
    if settings.refined is not None:
        raise UsageError("a file that is relative to another model is imported on a command line")


def _told_of(imported: Trained) -> Iterator[str]:
    made, (step, *_) = imported.increment.provenance, imported.increment.history
    yield f"{made.concept}: {step_in_words(step)}."
    if made.certificate:
        yield f"{made.concept}: {in_words(made.certificate)}."
    else:
        yield "No sentence was asked about it, so there is no certificate."
    if not step.get("separable", True) and not step.get("projected"):
        yield (
            "It erases several concepts together, and can be applied and removed as a whole; "
            "projected, it would be this concept's part alone."
        )
    yield f"Saved as {imported.path.name}."


def _told_about(path: Path, to: str, written: Mapping[str, Any]) -> Iterator[str]:
    target = TARGETS[to]
    yield f"{path.name}, {path.stat().st_size / 1e6:,.1f} MB: {target.about}."
    if "error" in written:
        yield f"The file loses {written['error']:.1e} of the change of the weights."
    for which, found in written.get("certificate", {}).items():
        yield f"The set as {_as(which)}: {set_in_words(found)}."
    if target.adds:
        yield (
            "Tools add such files up, and sums of erasures harm what is kept: to erase another "
            "set, export that set as one file."
        )


def _as(which: str) -> str:
    return {"composed": "it is composed here", "file": "the file has it"}.get(which, which)


def _file_name(erased: Mapping[str, float], to: str) -> str:
    concepts = "_".join(map(slug, sorted(erased)))
    if len(concepts) > LONGEST_NAME:
        concepts = f"{len(erased)}-concepts"

    return f"without_{concepts}.{to}"


def _zipped(folder: Path) -> Path:
    """Return a zip file in the place of a folder; weights do not get smaller by compressing."""
    path = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, Path(folder.name) / file.relative_to(folder))

    shutil.rmtree(folder)
    return path


class _Collecting(logging.Handler):
    """Collects what one thread warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread, self.texts = threading.get_ident(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.texts.append(record.getMessage())


@contextlib.contextmanager
def _warned() -> Iterator[list[str]]:
    """Collect what the block warns of, for whoever has no terminal before them."""
    collecting, ours = _Collecting(), logging.getLogger("multierase")
    ours.addHandler(collecting)
    try:
        yield collecting.texts
    finally:
        ours.removeHandler(collecting)

"""A composed model as the pipeline folder that plain diffusers loads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

import multierase
from multierase.composer import Composer
from multierase.errors import AlreadyThere, WriteError
from multierase.files import owner_is_gone, reason_of, temporary_name, write_text
from multierase.models.model import Model

PROVENANCE = "multierase.json"
TEMPORARY = ".multierase-export"


def export_pipeline(model: Model, composer: Composer, folder: str | Path) -> Path:
    """Write the model as it is composed now: a diffusers folder that needs no multierase to load.

    A file ``multierase.json`` in it says what was erased, and how it was put together. The folder
    appears whole or not at all.

    Raises:
        AlreadyThere: if ``folder`` holds anything already.
        WriteError: if the disk is full, or the place cannot be written.
    """
    folder = Path(folder)
    with new_folder(folder) as temporary:
        model.pipeline.save_pretrained(temporary)
        made = json.dumps(provenance_of(model, composer), indent=1, sort_keys=True)
        write_text(temporary / PROVENANCE, made)

    return folder


def absent_parts(model: Model) -> list[str]:
    """Return the parts that the pipeline lacks, and that plain diffusers has to be told it lacks.

    Of Stable Diffusion 3 without T5: ``from_pretrained(folder, text_encoder_3=None, ...)``.
    """
    pipeline = model.pipeline
    optional = pipeline._optional_components

    return [
        name for name, part in pipeline.components.items() if part is None and name not in optional
    ]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` if the body ends without an error.

    Raises:
        AlreadyThere: if ``folder`` holds anything already.
        WriteError: if the disk is full, or the place cannot be written.
    """
    require_empty(folder)
    temporary = _temporary(folder)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush(path)
        temporary.replace(folder)
    except (AlreadyThere, WriteError):
        raise
    except (OSError, SafetensorError) as error:
        reason = reason_of(error, temporary, folder)
        raise WriteError(f"cannot write {folder}: {reason}; nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_empty(folder: str | Path) -> None:
    """Raise ``AlreadyThere`` unless ``folder`` is absent or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyThere(
            f"{folder} exists and is not empty: give a new folder, or remove it first"
        )


def _temporary(folder: Path) -> Path:
    """Make a folder beside ``folder``, whose name says whose it is; it becomes ``folder``."""
    temporary = temporary_name(folder, TEMPORARY)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _collect_left_over(folder.parent)
        temporary.mkdir()
    except OSError as error:
        raise WriteError(f"cannot write into {folder.parent}: {error.strerror}") from error

    return temporary


def _collect_left_over(parent: Path) -> None:
    """Remove the folders of exports that were killed on this machine."""
    for path in parent.glob(f".*{TEMPORARY}"):
        if owner_is_gone(path.name, TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def provenance_of(model: Model, composer: Composer) -> dict[str, Any]:
    """Return JSON values that say what is erased, and how it was put together."""
    erased = {}
    for name, strength in composer.erased.items():
        provenance = composer.increments[name].provenance
        erased[name] = {"strength": strength, **provenance.as_dict()}

    return {
        "version": multierase.__version__,
        "base": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "solve": composer.solve,
        "deviations": composer.deviations(),
        "erased": erased,
    }

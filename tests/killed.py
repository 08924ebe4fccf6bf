"""Jobs for processes that are killed."""

from __future__ import annotations

import itertools
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from multierase import Composer, EraseSettings, Library, Workspace, compress, export_pipeline
from multierase.increments.compression import DTYPES
from multierase.models.loading import load_base

SETTINGS = EraseSettings(
    kind="none", steps=48, batch_size=1, sampler_steps=2, sampling_batch=8, stop_at=None
)


def erase(base: str, folder: Path, began: Event) -> None:
    """Erase two concepts, each saved when it is done; go on where the last run was killed."""
    torch.set_num_threads(1)
    workspace = Workspace(folder, base, create=True, device="cpu")
    began.set()
    done = set(workspace.library)
    for concept in ("Noto", "Twemoji"):
        if concept not in done:
            workspace.train(concept, settings=SETTINGS, resume=True)


def compress_again_and_again(base: str, folder: Path, began: Event) -> None:
    """Replace an increment by smaller copies of it, in every precision, until killed."""
    torch.set_num_threads(1)
    library = Library(folder)
    whole = library["Noto"]
    began.set()
    for dtype in itertools.cycle(DTYPES.values()):
        library.save(compress(whole, 0.1, dtype), overwrite=True)


def export_again_and_again(base: str, folder: Path, began: Event) -> None:
    """Write composed pipelines into new folders, until killed."""
    torch.set_num_threads(1)
    model, library = load_base(base, device="cpu"), Library(folder)
    composer = Composer(model, library)
    composer.erase("Noto")
    began.set()
    for number in itertools.count():
        export_pipeline(model, composer, folder / "exports" / str(number))

"""Out of multierase: what plain diffusers loads."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import multierase
from multierase.base import Base
from multierase.composer import Composer

PROVENANCE = "multierase.json"


def export_pipeline(base: Base, composer: Composer, folder: str | Path) -> Path:
    """Write the base as it is composed now: a diffusers folder that needs no multierase to load.

    A file ``multierase.json`` in it says what was erased, and how it was put together. The folder appears whole or not
    at all.

    Raises:
        FileExistsError: where ``folder`` holds anything already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: give a new folder, or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        base.pipeline.save_pretrained(temporary)
        made = {
            "version": multierase.__version__,
            "base": base.name,
            "dtype": str(base.dtype).removeprefix("torch."),
            "solve": composer.solve,
            "deviations": composer.deviations(),
            "erased": {name: {"strength": s, **composer.increments[name].info} for name, s in composer.off.items()},
        }
        (temporary / PROVENANCE).write_text(json.dumps(made, indent=1, sort_keys=True))
        temporary.chmod(0o755)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder

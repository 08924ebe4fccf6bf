"""Diffusers' pipelines of the families that are known, from folders and hub ids."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors import SafetensorError

from multierase.errors import WeightsFileError
from multierase.models.flux import Flux
from multierase.models.flux2 import Flux2Klein
from multierase.models.model import Model
from multierase.models.sd3 import StableDiffusion3
from multierase.models.sdxl import StableDiffusionXL
from multierase.models.sources import INDEX
from multierase.models.stable_diffusion import StableDiffusion

UNREAD = "pooler."  # a head of BERT's that no pipeline reads, and that many files lack

PIPELINES: dict[str, Callable[..., Model]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "Flux2KleinPipeline": Flux2Klein,
}


def index_of(source: str) -> tuple[str, dict[str, Any]]:
    """Return the pipeline class that a folder's index names, or a hub id's; and the index."""
    if not Path(source).is_dir():
        index = DiffusionPipeline.load_config(source)
        return index["_class_name"], index

    path = Path(source) / INDEX
    try:
        index = json.loads(path.read_text("utf-8"))
        return index["_class_name"], index
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsFileError(f"{path} cannot be read: {error!r}") from error


def require_known(kind: str, source: str) -> None:
    if kind not in PIPELINES:
        raise ValueError(
            f"{source!r} is a {kind}, which is not supported; supported: {sorted(PIPELINES)}"
        )


def from_folder(source: str, dtype: torch.dtype, **parts: Any) -> DiffusionPipeline:
    """Load a folder or a hub id; ``parts`` are there already."""
    try:
        kind, index = index_of(source)
        require_known(kind, source)
        # Diffusers writes that Stable Diffusion 3 has no T5, and asks for it when it reads that.
        absent = dict.fromkeys(name for name, value in index.items() if value == [None, None])
        parts = absent | parts
        if kind == StableDiffusionPipeline.__name__:
            parts["safety_checker"] = None
        pipeline = getattr(diffusers, kind)
        with _whole(source):
            return pipeline.from_pretrained(source, dtype=dtype, trust_remote_code=False, **parts)
    except (OSError, SafetensorError) as error:
        if Path(source).is_dir():
            raise WeightsFileError(
                f"base {source!r} is damaged, or not complete: {error}"
            ) from error
        raise FileNotFoundError(f"cannot load base {source!r}: {error}") from error


@contextlib.contextmanager
def _whole(source: str) -> Iterator[None]:
    """Refuse text towers whose files lack weights: transformers warns, and draws random ones."""
    logger = logging.getLogger("transformers.modeling_utils")
    missing = _Missing()
    level, heard = logger.level, logger.isEnabledFor(logging.WARNING)
    logger.addHandler(missing)
    if not heard:  # who has asked for silence is not told of what is merely odd
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(missing)
        logger.setLevel(level)
        logger.propagate = True

    if missing.names:
        raise WeightsFileError(
            f"base {source!r} lacks weights of a text tower, such as {missing.names[0]!r}: its "
            "files are damaged, or written for another version; download or save it again"
        )


class _Missing(logging.Handler):
    """Collects the names in transformers' report that are missing."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            name, *columns = line.split("|")
            missing = columns and columns[0].strip() == "MISSING"
            if missing and not name.strip().startswith(UNREAD):
                self.names.append(name.strip())

"""Gram matrices that took minutes to make, kept in a file for the next time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from multierase.errors import WriteError
from multierase.files import digest_tensors, replacing
from multierase.models.model import Model

logger = logging.getLogger(__name__)

ROWS = "means"  # the name of what has a row for each sentence; all else is a Gram matrix


def encoder_key(model: Model, asked: bytes) -> str:
    """Return a digest of a request to a model's text encoders."""
    # The empty prompt's embedding tells one text encoder from another.
    encoder = {stream: model.tokens([""], stream) for stream in model.streams}

    return digest_tensors(encoder, prefix=asked)


def read_grams(path: Path, key: str, model: Model) -> dict[tuple[str, str], torch.Tensor] | None:
    """Read matrices by stream and name; ``None`` if there are none, or others, or damaged ones."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None

    if metadata.get("sha256") != digest_tensors(tensors):
        return None

    grams = {}
    for entry, matrix in tensors.items():
        stream, _, name = entry.partition(" ")
        if stream not in model.streams:
            return None
        width = model.tokens([""], stream).shape[1]
        rows = len(matrix) if name == ROWS and matrix.ndim else width
        if tuple(matrix.shape) != (rows, width) or not torch.isfinite(matrix).all():
            return None
        grams[stream, name] = matrix if name == ROWS else matrix.double()

    return grams if {stream for stream, _ in grams} == set(model.streams) else None


def write_grams(path: Path, key: str, grams: Mapping[tuple[str, str], torch.Tensor]) -> None:
    """Write matrices by stream and name; if that fails, warn: they are made again next time."""
    tensors = {f"{stream} {name}": matrix.contiguous() for (stream, name), matrix in grams.items()}
    try:
        metadata = {"key": key, "sha256": digest_tensors(tensors)}
        with replacing(path) as temporary:
            # Not save_file, which leaves a temporary file of its own behind when it is killed.
            temporary.write_bytes(save(tensors, metadata))
    except (WriteError, SafetensorError) as error:
        logger.warning(
            "the keep-list could not be cached, and is computed again next time: %s", error
        )

"""Weights from files of other people: read as numbers only, never as code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from multierase.errors import WeightsFileError
from multierase.files import plain


def read_weights(path: Path, device: str | torch.device = "cpu") -> object:
    """Return what a ``.safetensors`` or a pickled file holds: tensors by name, or nested mappings.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsFileError: for anything that is not weights alone.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, device, weights_only=True)
    except Exception as error:  # a hostile pickle can raise anything, also from within torch
        raise WeightsFileError(
            f"{path} holds no weights that can be read safely: {plain(error)[:500]}"
        ) from error

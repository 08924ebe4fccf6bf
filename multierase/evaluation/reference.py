"""Real pictures, which sets may be compared with beside the base's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from multierase.errors import WeightsFileError
from multierase.evaluation.instruments import Instruments
from multierase.evaluation.statistics import Gaussian
from multierase.files import digest_bytes, digest_file

PICTURES = (".jpeg", ".jpg", ".png", ".webp")
FEATURES = 2048  # of FID's Inception


def load_reference(path: str, instruments: Instruments) -> Gaussian:
    """Load real pictures, or their statistics.

    Args:
        path: a folder of pictures, each at its own size, or ``.npz`` with ``mu`` and ``sigma`` of
            Inception's features.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: for fewer than two pictures, or features that cannot be compared.
        WeightsFileError: for another kind of file.
    """
    files = _files(path)
    if Path(path).is_dir():
        return _of_pictures(path, files, instruments)
    if instruments.inception is None:
        raise ValueError(
            f"--reference {path}: statistics are of Inception's features, give --fid; or a folder "
            "of pictures"
        )

    try:
        with np.load(path, allow_pickle=False) as file:
            mu, sigma = np.asarray(file["mu"]), np.asarray(file["sigma"])
    except Exception as error:  # a damaged archive raises whatever its reader meets
        raise WeightsFileError(
            f"--reference {path}: give .npz with mu and sigma, or a folder of pictures: {error}"
        ) from error

    if mu.shape != (FEATURES,) or sigma.shape != (FEATURES, FEATURES):
        raise WeightsFileError(
            f"--reference {path}: mu {mu.shape}, sigma {sigma.shape}; {FEATURES} features wanted"
        )
    return Gaussian.from_covariance(mu, sigma)


def reference_digest(path: str) -> str:
    """Return the digest of the file, or of all pictures of the folder."""
    return digest_bytes(*(digest_file(file) for file in _files(path)), length=12)


def _of_pictures(path: str, files: list[Path], instruments: Instruments) -> Gaussian:
    if len(files) < 2:
        raise ValueError(
            f"--reference {path}: {len(files)} pictures ({', '.join(PICTURES)}); give two or more"
        )

    features = [instruments.frechet_features(_read(file)) for file in files]
    if features[0] is None:
        raise ValueError(
            f"--reference: {instruments.judge.name} has no features to compare pictures by; give "
            "--fid too"
        )

    return Gaussian.of(np.concatenate(features))


def _files(reference: str) -> list[Path]:
    path = Path(reference)
    if not path.exists():
        raise FileNotFoundError(f"--reference: no folder of pictures and no .npz at {path}")
    if not path.is_dir():
        return [path]

    return sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)


def _read(path: Path) -> torch.Tensor:
    """Read a picture: ``(1, 3, h, w)`` in [0, 1]."""
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise WeightsFileError(f"--reference: {path} is no picture: {error}") from error

    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255

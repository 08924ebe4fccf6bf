"""Shared by the training scripts: the renders, their shifts, flags, checkpoints, the rate."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

SHIFTS = (-2, 0, 2)  # pixels, either way


@dataclass(frozen=True)
class Renders:
    """The studios' drawings.

    Args:
        images: ``(studio, subject, 3, 64, 64)`` in [-1, 1].
        other_images: the same of the judge's extra subjects.
        smaller: the same as ``images``, drawn at a size that nothing is trained on.
    """

    images: torch.Tensor
    other_images: torch.Tensor
    smaller: torch.Tensor
    studios: list[str]
    subjects: list[str]

    def held_out(self) -> torch.Tensor:
        """Return boolean ``(studio, subject)``: one pair per studio that no training ever sees.

        CLIP and the U-Net never see them. Each is another subject, so every subject is seen by at
        least eight studios.
        """
        order = torch.randperm(len(self.subjects), generator=torch.Generator().manual_seed(2303))
        held_out = torch.zeros(self.images.shape[:2], dtype=torch.bool)
        for studio in range(len(self.studios)):
            held_out[studio, order[2 * studio]] = True

        return held_out


def load_renders(work: Path) -> Renders:
    """Read what ``data.py`` has written."""
    stored = np.load(work / "renders.npz")
    images, smaller = _pictures(stored["images"]), _pictures(stored["smaller"])
    studios = [str(name) for name in stored["studios"]]
    subjects = [str(name) for name in stored["subjects"]]
    own = len(subjects)

    return Renders(images[:, :own], images[:, own:], smaller, studios, subjects)


def _pictures(stored: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(stored).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def shift(images: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """Shift ``(..., 64, 64)`` pictures.

    The renders have a white margin as wide as the largest shift, so rolling is shifting.
    """
    return images.roll((down, across), dims=(-2, -1))


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each of ``(b, 3, 64, 64)`` by chance."""
    draw = torch.randint(len(SHIFTS), (len(images), 2), generator=generator).tolist()
    moved = []
    for image, (down, across) in zip(images, draw, strict=True):
        moved.append(shift(image, SHIFTS[down], SHIFTS[across]))

    return torch.stack(moved)


def blurred(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur half of ``(b, 3, 64, 64)``, and add some noise to all.

    The Gaussian blur has up to 1.2 pixels, with one strength for each batch.
    """
    sigma = 0.3 + 0.9 * torch.rand((), generator=generator)
    offsets = torch.arange(-3, 4.0)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    smooth = F.conv2d(padded, kernel, groups=images.shape[1])
    smooth = F.conv2d(smooth, kernel.transpose(-1, -2), groups=images.shape[1])

    half = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    level = 0.08 * torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    return torch.where(half, smooth, images) + level * noise


class Checkpoint:
    """Everything that a training run needs to go on, in one file that is replaced whole."""

    def __init__(self, path: Path, **parts):
        self.path, self.parts = path, parts

    def resume(self, generator: torch.Generator) -> int:
        """Load what is there; return the step to go on from, 0 for a fresh start."""
        if not self.path.exists():
            return 0

        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        generator.set_state(state["generator"])
        return state["step"]

    def save(self, step: int, generator: torch.Generator) -> None:
        """Write the state after ``step`` steps."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": step, "generator": generator.get_state()}
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Return a linear warm-up's rate, then that of a linear fall to zero."""
    return peak * min((step + 1) / warmup, (steps - step) / max(steps - warmup, 1))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def training_parser(
    about: str, steps: int | None, batch_size: int, rate: float, work: str = "build"
) -> argparse.ArgumentParser:
    """Make the parser of a training, with the flags that all of them have.

    Args:
        about: the script's docstring; its first line is the help's.
        steps, batch_size, rate: the defaults, and ``work`` that of the folder.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(work))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--learning-rate", type=float, default=rate)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)

    return parser


def seeded(args: argparse.Namespace) -> torch.Generator:
    """Set threads and seed as these flags say; return the training's generator."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    return torch.Generator().manual_seed(args.seed)

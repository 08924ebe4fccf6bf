"""Measures of a picture beside what a judge sees in it, each by the published network that defines it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch

from multierase.evaluation.clip import Clip, weights_digest

Backbone = Literal["alex", "vgg", "squeeze"]


class Measure(Protocol):
    """One number for each picture.

    ``key``: its column. ``name``: the network and its version, which every result states. ``of_base``: whether it
    sets a picture against the base's own, of the same prompt and seed.
    """

    key: str
    name: str
    of_base: bool

    def __call__(self, images: torch.Tensor, prompts: Sequence[str], base: torch.Tensor | None) -> list[float]:
        """Of ``(b, 3, h, w)`` pictures in [0, 1]; ``base`` alike where ``of_base``."""


class ClipScore:
    """A hundred times the cosine of picture and prompt (arXiv 2104.08718, without its weight of 2.5 and its floor at
    0), as torchmetrics and MACE have it."""

    key, of_base = "clip_score", False

    def __init__(self, clip: Clip):
        self.clip, self.name = clip, clip.name

    def __call__(self, images: torch.Tensor, prompts: Sequence[str], base: torch.Tensor | None) -> list[float]:
        return (100 * (self.clip.of_pictures(images) * self.clip.of_texts(prompts)).sum(dim=1)).tolist()


class Lpips:
    """LPIPS (arXiv 1801.03924) to the base's picture, by torchmetrics.

    Raises:
        ValueError: where a package is missing.
        FileNotFoundError: where the backbone's weights are not at hand.
    """

    key, of_base = "lpips", True

    def __init__(self, backbone: Backbone, device: str | torch.device = "cpu"):
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            metric = LearnedPerceptualImagePatchSimilarity(backbone, normalize=True)
        except ImportError as error:
            raise ValueError(
                "LPIPS needs torchmetrics, pip install 'multierase[measures]', and the torchvision that belongs to "
                f"your torch: {error}; without --lpips, distances are those of the judge's features"
            ) from error
        except OSError as error:
            raise FileNotFoundError(f"LPIPS: the weights of {backbone!r} are not at hand: {error}") from error
        self._network, self._device = metric.net.to(device), device
        self.name = f"LPIPS {backbone}, sha256 {weights_digest(self._network)}"

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, prompts: Sequence[str], base: torch.Tensor | None) -> list[float]:
        here, there = images.to(self._device), base.to(self._device)
        return self._network(here, there, normalize=True).flatten().float().cpu().tolist()


class Inception:
    """The 2048 features of which FID (arXiv 1706.08500) is made, by torchmetrics and torch-fidelity.

    Raises:
        ValueError: where a package is missing, or the file does not fit.
        FileNotFoundError: where there is no such file.
    """

    def __init__(self, weights: str, device: str | torch.device = "cpu"):
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights {path}; --fid takes torch-fidelity's Inception, pt_inception-2015-12-05-6726825d.pth"
            )
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self._network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
        except ImportError as error:
            raise ValueError(
                "FID needs torchmetrics, pip install 'multierase[measures]', and torch-fidelity with the torchvision "
                f"that belongs to your torch: {error}; without --fid, Fréchet distances are those of the judge's "
                "features"
            ) from error
        self._network.requires_grad_(False).to(device)
        self._device = device
        self.name = f"FID's Inception-v3, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """``(b, 2048)`` of ``(b, 3, h, w)`` pictures in [0, 1]."""
        pixels = (images.clamp(0, 1) * 255).round().byte()
        return torch.cat([self._network(batch.to(self._device)).float().cpu() for batch in pixels.split(32)])


def load_measures(
    clip: str | None = None, lpips: Backbone | None = None, device: str | torch.device = "cpu"
) -> list[Measure]:
    """Those that are asked for. What is missing is an error: no measure takes another's place."""
    measures: list[Measure] = [ClipScore(Clip.load(clip, device))] if clip is not None else []
    return [*measures, *([Lpips(lpips, device)] if lpips is not None else [])]

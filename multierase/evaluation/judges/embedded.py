"""The judges of the embedded bases: which style a picture is drawn in, and what it shows."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from multierase.evaluation.judges import Verdict
from multierase.files import digest_file

BATCH = 256


class Residual(nn.Module):
    """Two convolutions beside a projected skip connection."""

    def __init__(self, width: int, width_out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
            nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.skip = nn.Conv2d(width, width_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class StyleSubjectNet(nn.Module):
    """A small residual classifier with two heads over ``(b, 3, 64, 64)`` pictures in [-1, 1]."""

    def __init__(self, styles: int, subjects: int):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            Residual(32, 32, 1),
            Residual(32, 64, 2),
            Residual(64, 128, 2),
            Residual(128, 192, 2),
        )
        # Named as in the files: a studio of `emoji`, a typeface of `type`.
        self.studio = nn.Linear(192, styles)
        self.subject = nn.Linear(192, subjects)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.trunk(images).mean(dim=(-2, -1))

        return self.studio(features), self.subject(features), features


class EmbeddedJudge:
    """The judge of an embedded base.

    Trained on the real renders under blur, noise, shift, jitter and VAE reconstruction, never on a
    generated picture; the base's model card has its accuracy on renders that it was not trained on.
    """

    features = "the judge's last layer before its answer"

    def __init__(self, network: StyleSubjectNet, classes: dict[str, list[str]], name: str):
        self.network, self.name = network.eval().requires_grad_(False), name
        self.classes = classes

    @classmethod
    def load(cls, base: str) -> EmbeddedJudge:
        """Load the judge of ``emoji`` or ``type``, which comes with the package."""
        with resources.as_file(resources.files("multierase") / "assets") as assets:
            return cls.from_file(assets / f"{base}-judge.safetensors", base)

    @classmethod
    def from_file(cls, path: Path, base: str) -> EmbeddedJudge:
        """Read a judge as the scripts that train it write it."""
        with safe_open(path, "pt") as file:
            names = json.loads(file.metadata()["classes"])
        weights = {}
        for name, weight in load_file(path).items():
            counter = name.endswith("num_batches_tracked")
            weights[name] = weight.long() if counter else weight.float()

        network = StyleSubjectNet(*map(len, names.values()))
        network.load_state_dict(weights)
        # A file has its kinds in the plural.
        classes = {kind.removesuffix("s"): listed for kind, listed in names.items()}
        version = digest_file(path, length=12)
        return cls(network, classes, f"{base} judge, sha256 {version}")

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Verdict:
        """Judge ``(b, 3, 64, 64)`` pictures in [0, 1]."""
        batches = [self.network(batch.float() * 2 - 1) for batch in images.split(BATCH)]
        *heads, features = (torch.cat(parts) for parts in zip(*batches, strict=True))

        seen = {}
        for (kind, names), head in zip(self.classes.items(), heads, strict=True):
            seen[kind] = [names[index] for index in head.argmax(dim=1).tolist()]

        return Verdict(seen, features)

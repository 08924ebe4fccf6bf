"""The judge of the embedded base ``emoji``: which studio drew a picture, and what it shows."""

from __future__ import annotations

import json
from importlib import resources

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


class StudioSubjectNet(nn.Module):
    """A small residual classifier with two heads over ``(b, 3, 64, 64)`` pictures in [-1, 1]."""

    def __init__(self, studios: int, subjects: int):
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
        self.studio = nn.Linear(192, studios)
        self.subject = nn.Linear(192, subjects)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.trunk(images).mean(dim=(-2, -1))

        return self.studio(features), self.subject(features), features


class EmojiJudge:
    """The judge of the embedded base.

    Trained on the studios' real renders under blur, noise, shift, colour jitter and VAE
    reconstruction, never on a generated picture; the model card has its accuracy on renders that it
    was not trained on.
    """

    features = "the judge's last layer before its answer"

    def __init__(
        self, network: StudioSubjectNet, studios: list[str], subjects: list[str], name: str
    ):
        self.network, self.name = network.eval().requires_grad_(False), name
        self.classes = {"studio": studios, "subject": subjects}

    @classmethod
    def load(cls) -> EmojiJudge:
        """Load the judge that comes with the package."""
        with resources.as_file(
            resources.files("multierase") / "assets" / "judge.safetensors"
        ) as path:
            with safe_open(path, "pt") as file:
                names = json.loads(file.metadata()["classes"])
            stored, version = load_file(path), digest_file(path, length=12)

        weights = {}
        for name, weight in stored.items():
            counter = name.endswith("num_batches_tracked")
            weights[name] = weight.long() if counter else weight.float()
        network = StudioSubjectNet(len(names["studios"]), len(names["subjects"]))
        network.load_state_dict(weights)

        return cls(network, names["studios"], names["subjects"], f"emoji judge, sha256 {version}")

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Verdict:
        """Judge ``(b, 3, 64, 64)`` pictures in [0, 1]."""
        batches = [self.network(batch.float() * 2 - 1) for batch in images.split(BATCH)]
        *heads, features = (torch.cat(parts) for parts in zip(*batches, strict=True))

        seen = {}
        for (kind, names), head in zip(self.classes.items(), heads, strict=True):
            seen[kind] = [names[index] for index in head.argmax(dim=1).tolist()]

        return Verdict(seen, features)

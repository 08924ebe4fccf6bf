"""Judges: what is in a picture, said by a classifier that had no part in making it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from multierase.evaluation.clip import Clip


class Residual(nn.Module):
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
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 128, 2), Residual(128, 192, 2),
        )  # fmt: skip
        self.studio = nn.Linear(192, studios)
        self.subject = nn.Linear(192, subjects)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.trunk(images).mean(dim=(-2, -1))
        return self.studio(features), self.subject(features), features


@dataclass(frozen=True)
class Verdict:
    """What a judge sees in ``b`` pictures.

    ``seen``: for each kind of label, such as ``studio``, the most likely class of every picture. ``features``:
    ``(b, f)``, of which distances between pictures are made; ``None`` of a judge that has none. ``counts``: for each
    thing that is counted how many are in every picture.
    """

    seen: dict[str, list[str]]
    features: torch.Tensor | None
    counts: dict[str, list[int]] = field(default_factory=dict)


class Judge(Protocol):
    """Anything that can say what is in a picture.

    ``name``: its name and version, which every result states. ``classes``: for each kind of label, what it can see.
    ``features``: what the features of its verdicts are, which results state; empty where there are none.
    """

    name: str
    classes: Mapping[str, Sequence[str]]
    features: str

    def __call__(self, images: torch.Tensor) -> Verdict:
        """Of ``(b, 3, h, w)`` pictures in [0, 1]."""


class EmojiJudge:
    """The judge of the embedded base: which of the studios drew a picture, and which subject it shows.

    Trained on the studios' real renders under blur, noise, shift, colour jitter and VAE reconstruction, never on a
    generated picture; see the model card for its accuracy on renders that it was not trained on.
    """

    features = "the judge's last layer before its answer"

    def __init__(self, network: StudioSubjectNet, studios: list[str], subjects: list[str], name: str):
        self.network, self.name = network.eval().requires_grad_(False), name
        self.classes = {"studio": studios, "subject": subjects}

    @classmethod
    def load(cls) -> EmojiJudge:
        with resources.as_file(resources.files("multierase") / "assets" / "judge.safetensors") as path:
            with safe_open(path, "pt") as file:
                names = json.loads(file.metadata()["classes"])
            weights = {name: tensor.float() for name, tensor in load_file(path).items()}
            version = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        network = StudioSubjectNet(len(names["studios"]), len(names["subjects"]))
        network.load_state_dict({n: w.long() if n.endswith("num_batches_tracked") else w for n, w in weights.items()})
        return cls(network, names["studios"], names["subjects"], f"emoji judge, sha256 {version}")

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Verdict:
        """Judge ``(b, 3, 64, 64)`` pictures in [0, 1]."""
        batches = [self.network(batch.float() * 2 - 1) for batch in images.split(256)]
        *heads, features = (torch.cat(parts) for parts in zip(*batches, strict=True))
        seen = {
            label: [names[i] for i in head.argmax(dim=1).tolist()]
            for (label, names), head in zip(self.classes.items(), heads, strict=True)
        }
        return Verdict(seen, features)


class ClipJudge:
    """CLIP, zero-shot: of the classes of a kind the one whose sentence is nearest to the picture.

    Args:
        clip: which.
        classes: for each kind of label, what it may be.
        templates: for each kind a sentence with ``{label}``; ``{label}`` alone by default.
    """

    features = "CLIP's picture embedding"

    def __init__(self, clip: Clip, classes: Mapping[str, Sequence[str]], templates: Mapping[str, str]):
        self.clip, self.classes, self.name = clip, classes, clip.name
        self._texts = {
            kind: clip.of_texts([templates.get(kind, "{label}").replace("{label}", label) for label in labels])
            for kind, labels in classes.items()
        }

    def __call__(self, images: torch.Tensor) -> Verdict:
        """Of ``(b, 3, h, w)`` pictures in [0, 1]."""
        features = self.clip.of_pictures(images)
        seen = {
            kind: [self.classes[kind][i] for i in (features @ text.T).argmax(dim=1).tolist()]
            for kind, text in self._texts.items()
        }
        return Verdict(seen, features)

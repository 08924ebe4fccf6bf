"""Any base with a list of its studios and subjects, and the judge of its pictures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from multierase import Model, from_pipeline, load_base
from multierase.emoji import STUDIO_AND_SUBJECT, STUDIOS, SUBJECT_ONLY, SUBJECTS
from multierase.evaluation.judges import Judge, Verdict
from multierase.evaluation.judges.embedded import EmbeddedJudge

EMBEDDED = "emoji"
# Captions of the base that has a judge of its own; it was taught no "an".
OWN_FORMS = ("a {subject} by {studio}", "a {subject} in the style of {studio}")
OWN_ALONE = "a {subject}"


class OwnJudge(nn.Module):
    """A small classifier that lies in its base's folder."""

    features = ""

    def __init__(self, folder: Path, studios: Sequence[str], subjects: Sequence[str]):
        super().__init__()
        self.name = f"judge of {folder.name}"
        self.classes = {"studio": studios, "subject": subjects}

        layers: list[nn.Module] = []
        for width, width_out in itertools.pairwise((3, 24, 48, 96, 128)):
            layers += [
                nn.Conv2d(width, width_out, 3, 2, 1),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
                nn.Conv2d(width_out, width_out, 3, 1, 1, groups=width_out),
                nn.Conv2d(width_out, width_out, 1),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
            ]
        # Named as in the file.
        self.f = nn.Sequential(*layers)
        self.h = nn.Linear(128, len(studios) + len(subjects))

        self.load_state_dict(load_file(folder / "judge.safetensors"))
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> Verdict:
        """Judge ``(b, 3, 64, 64)`` pictures in [0, 1]."""
        scores = self.h(self.f(images * 2 - 1).mean(dim=(2, 3)))
        heads = scores.split([len(names) for names in self.classes.values()], dim=1)

        seen = {}
        for (kind, names), head in zip(self.classes.items(), heads, strict=True):
            seen[kind] = [names[index] for index in head.argmax(dim=1).tolist()]
        return Verdict(seen, None)


@dataclass(frozen=True)
class Base:
    """A base to measure on.

    Args:
        source: as for ``load_base``.
        studios: by the base's word for a studio the judge's.
        forms: sentences that it was taught.
        alone: one that names no studio.
        listed: whether it brings a list of prompts.
    """

    name: str
    source: str
    studios: Mapping[str, str]
    subjects: Sequence[str]
    forms: Sequence[str]
    alone: str
    judge: Judge
    listed: bool

    @classmethod
    def of(cls, source: str) -> Base:
        """Read the words of the embedded base, or of a folder with a ``names.json``."""
        if source == EMBEDDED:
            own, judge = {studio: studio for studio in STUDIOS}, EmbeddedJudge.load("emoji")
            forms, alone = STUDIO_AND_SUBJECT, SUBJECT_ONLY[0]
            return cls(source, source, own, SUBJECTS, forms, alone, judge, listed=True)

        folder = Path(source).resolve()
        names = json.loads((folder / "names.json").read_text())
        studios = names["studios"]
        subjects = [subject.replace("-", " ") for subject in names["subjects"]]
        if (folder / "judge.safetensors").is_file():
            judge, forms, alone = OwnJudge(folder, studios, subjects), OWN_FORMS, OWN_ALONE
            studios = {studio: studio for studio in studios}
        else:
            sentences = json.loads((folder / "sentences.json").read_text())
            forms, alone = sentences["both"], sentences["subject"][0]
            judge = EmbeddedJudge.load("emoji")

        listed = (folder / "prompts.csv").is_file()
        return cls(folder.name, str(folder), studios, subjects, forms, alone, judge, listed)

    def load(self, own_list: bool) -> Model:
        """Load the model.

        Args:
            own_list: with the prompts and kinds that its folder lists; else as a base without any.
        """
        model = load_base(self.source, device="cpu")
        if self.listed and not own_list:
            # A pipeline that is made in memory has no folder, and so no list.
            parts = model.pipeline.components
            made = type(model.pipeline)(**parts, requires_safety_checker=False)
            model = from_pipeline(made, self.source)
        for module in model.components.values():
            module.to(memory_format=torch.channels_last)

        return model

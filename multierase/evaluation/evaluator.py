"""What is evaluated, and what is seen of it: a base, a composer and a judge over a suite."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from multierase.base import Base, load_base
from multierase.composer import Composer, Solve, wants_keep_list
from multierase.concepts import TaggedPrompt
from multierase.evaluation.plans import Erased
from multierase.evaluation.suites import Suite, load_suite
from multierase.generate import SamplingSettings, generate, to_picture
from multierase.library import Library

THUMBNAIL = 128  # pixels at most


@dataclass(frozen=True)
class Subject:
    """What is evaluated, in words that another process can load.

    Args:
        base, base_config, device, dtype: as ``load_base`` takes them.
        library: folder of the increments.
        suite: a shipped suite's name, or a YAML file.
        solve, keep_weight: as ``Composer`` takes them.
        keep: prompts to keep, beside the base's own.
        inference_steps, guidance_scale: in place of the suite's.
        batch_size: pictures at a time.
        thumbnails: cases, of different classes, whose pictures are kept, small, to look at.
    """

    library: str
    suite: str
    base: str = "emoji"
    base_config: str | None = None
    device: str | None = None
    dtype: str = "float32"
    solve: Solve | None = None
    keep_weight: float = 3.0
    keep: tuple[TaggedPrompt, ...] = ()
    inference_steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 64
    thumbnails: int = 9

    def sampling(self, suite: Suite) -> SamplingSettings:
        given = {"inference_steps": self.inference_steps, "guidance_scale": self.guidance_scale}
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingSettings(**{**asdict(suite.sampling), **chosen, "batch_size": self.batch_size})


@dataclass(frozen=True)
class Look:
    """What was seen of one set: by kind of label a class for each case; ``(n, f)`` features; small pictures by case."""

    seen: dict[str, list[str]]
    features: np.ndarray
    thumbnails: dict[int, bytes]


@dataclass
class Evaluator:
    """One process's share of the work: a base, a composer and a judge."""

    subject: Subject
    base: Base = field(init=False)

    def __post_init__(self):
        subject = self.subject
        self.suite = load_suite(subject.suite)
        self.judge = self.suite.load_judge()
        self.sampling = subject.sampling(self.suite)
        self.base = load_base(subject.base, device=subject.device, dtype=subject.dtype, config=subject.base_config)
        library = Library(subject.library)
        listed = [*self.base.known_prompts, *subject.keep]
        wanted = wants_keep_list(subject.solve, bool(listed))
        keep = library.keep_list(self.base.text, listed) if wanted else None
        self.composer = Composer(
            self.base.unet, library, solve=subject.solve, keep=keep, keep_weight=subject.keep_weight
        )

    def look(self, erased: Erased) -> Look:
        """What the judge sees in every case's picture with these concepts off."""
        cases = self.suite.cases
        with self.composer.erased(*erased):
            images = generate(self.base, [c.prompt for c in cases], [c.seed for c in cases], self.sampling)
        verdict = self.judge(images)
        shown = {cases[i].number: _thumbnail(images[i]) for i in self._shown()}
        return Look(verdict.seen, verdict.features.numpy().astype(np.float32), shown)

    def _shown(self) -> list[int]:
        """Places of the cases to show: the first of each class of the first kind of label."""
        first = {}
        for place, case in enumerate(self.suite.cases):
            first.setdefault(next(iter(case.labels.values()), ""), place)
        return list(first.values())[: self.subject.thumbnails]


def _thumbnail(image: torch.Tensor) -> bytes:
    picture = to_picture(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=85)
    return data.getvalue()

"""What is evaluated, and what is seen of it: a base, what erases on it, and a judge over a suite."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from multierase.base import Base, load_base
from multierase.composer import Composer, Solve, wants_keep_list
from multierase.concepts import TaggedPrompt
from multierase.evaluation.baselines import Eraser, Method, baseline
from multierase.evaluation.plans import Erased
from multierase.evaluation.suites import Suite, load_suite, shipped_suites
from multierase.generate import SamplingSettings, generate, to_picture
from multierase.increments import suggest
from multierase.library import Library

THUMBNAIL = 128  # pixels at most


@dataclass(frozen=True)
class Subject:
    """What is evaluated, in words that another process can load.

    Args:
        base, base_config, device, dtype: as ``load_base`` takes them.
        suite: a shipped suite's name, or a YAML file.
        library: folder of the increments; a baseline needs none.
        method: how concepts are erased.
        peer: for the method ``peer``, its pipeline's folder or its U-Net's weights.
        solve, keep_weight: as ``Composer`` takes them.
        keep: prompts to keep, beside the base's own.
        inference_steps, guidance_scale: in place of the suite's.
        batch_size: pictures at a time.
        thumbnails: cases, of different classes, whose pictures are kept, small, to look at.
    """

    suite: str
    library: str | None = None
    method: Method = "increments"
    peer: str | None = None
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

    def __post_init__(self):
        known = get_args(Method)
        if self.method not in known:
            raise ValueError(f"method {self.method!r}{suggest(self.method, known)}; give one of {list(known)}")
        if self.method == "increments" and self.library is None:
            raise ValueError("increments are in a library: give its folder, or another method")
        if (self.method == "peer") != (self.peer is not None):
            raise ValueError("a peer's folder or file goes with the method 'peer', and only with it")

    def sampling(self, suite: Suite) -> SamplingSettings:
        given = {"inference_steps": self.inference_steps, "guidance_scale": self.guidance_scale}
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingSettings(**{**asdict(suite.sampling), **chosen, "batch_size": self.batch_size})

    def absolute(self) -> Subject:
        """With whole paths, for a process that stands elsewhere; names of what is shipped, and hub ids, stay."""
        names = {"library": self.library, "base_config": self.base_config, "peer": self.peer}
        names |= {} if self.base == "emoji" else {"base": self.base}
        names |= {} if self.suite in shipped_suites() else {"suite": self.suite}
        paths = {key: Path(name).expanduser() for key, name in names.items() if name is not None}
        return replace(self, **{key: str(path.resolve()) for key, path in paths.items() if path.exists()})


@dataclass(frozen=True)
class Look:
    """What was seen of one set: by kind of label a class for each case; ``(n, f)`` features; small pictures by case."""

    seen: dict[str, list[str]]
    features: np.ndarray
    thumbnails: dict[int, bytes]


@dataclass
class Evaluator:
    """One process's share of the work: a base, what erases concepts on it, and a judge."""

    subject: Subject
    base: Base = field(init=False)

    def __post_init__(self):
        subject = self.subject
        self.suite = load_suite(subject.suite)
        self.judge = self.suite.load_judge()
        self.sampling = subject.sampling(self.suite)
        self.base = load_base(subject.base, device=subject.device, dtype=subject.dtype, config=subject.base_config)
        self.eraser = self._composer() if subject.method == "increments" else self._baseline()

    def _baseline(self) -> Eraser:
        subject, kinds = self.subject, self.suite.classes().values()
        return baseline(subject.method, self.base, self.sampling, kinds, subject.peer)

    def _composer(self) -> Composer:
        subject = self.subject
        library = Library(subject.library)
        listed = [*self.base.known_prompts, *subject.keep]
        wanted = wants_keep_list(subject.solve, bool(listed))
        keep = library.keep_list(self.base.text, listed) if wanted else None
        return Composer(self.base.unet, library, solve=subject.solve, keep=keep, keep_weight=subject.keep_weight)

    def look(self, erased: Erased) -> Look:
        """What the judge sees in every case's picture with these concepts off."""
        cases = self.suite.cases
        with self.eraser.erased(*erased):
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

"""What is evaluated, and what is seen of it: a base, what erases on it, and a judge over a suite."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image

from multierase.base import Base, load_base
from multierase.composer import Composer, Solve, wants_keep_list
from multierase.concepts import TaggedPrompt
from multierase.evaluation.baselines import Eraser, Method, baseline
from multierase.evaluation.judges import Judge, Verdict
from multierase.evaluation.measures import Backbone, Inception, Measure, load_measures
from multierase.evaluation.metrics import Gaussian
from multierase.evaluation.plans import Erased
from multierase.evaluation.suites import Case, Options, Suite, load_suite, shipped_suites
from multierase.generate import Encoded, SamplingSettings, encode, generate, to_picture
from multierase.increments import suggest
from multierase.library import Library

KEPT_PROMPTS = 1000  # encoded, for the sets to come: half a GiB in float32 at Stable Diffusion 1's size
THUMBNAIL = 128  # pixels at most
PICTURES = (".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Subject:
    """What is evaluated, in words that another process can load.

    Args:
        base, base_config, device, dtype: as ``load_base`` takes them.
        suite: a shipped suite's name, or a YAML file.
        library: folder of the increments; a baseline needs none.
        method: how concepts are erased.
        peer: for the method ``peer``, its pipeline's folder or its U-Net's weights.
        prompts: CSV in place of the suite's.
        judge: options of the judge in place of the suite's.
        clip: folder or hub id of the CLIP for the CLIP score, in place of the suite's.
        lpips: backbone of LPIPS to the base's pictures, which every process then holds, a byte a number.
        fid: file of Inception's weights, for Fréchet distances of its features.
        reference: folder of real pictures, or ``.npz`` with their ``mu`` and ``sigma``, for one more Fréchet distance.
        solve, keep_weight: as ``Composer`` takes them.
        keep: prompts to keep, beside the base's own.
        inference_steps, guidance_scale: in place of the suite's.
        batch_size: pictures at a time.
        thumbnails: cases, of different classes first, whose pictures are kept, small, to look at; in place of the
            suite's.
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
    thumbnails: int | None = None
    prompts: str | None = None
    judge: Options = field(default_factory=dict)
    clip: str | None = None
    lpips: Backbone | None = None
    fid: str | None = None
    reference: str | None = None

    def __post_init__(self):
        known = get_args(Method)
        if self.method not in known:
            raise ValueError(f"method {self.method!r}{suggest(self.method, known)}; give one of {list(known)}")
        if self.method == "increments" and self.library is None:
            raise ValueError("increments are in a library: give its folder, or another method")
        if (self.method == "peer") != (self.peer is not None):
            raise ValueError("a peer's folder or file goes with the method 'peer', and only with it")

    def load_suite(self) -> Suite:
        """With the prompts and the judge that are given in place of its own; raises as ``suites.load_suite`` does."""
        return load_suite(self.suite, self.prompts, self.judge)

    def eyes(self, device: str | torch.device = "cpu") -> Eyes:
        """All that looks at pictures.

        Raises:
            ValueError, FileNotFoundError: for anything that is wrong with it or not at hand.
        """
        suite = self.load_suite()
        measures = load_measures(self.clip or suite.clip, self.lpips, device)
        inception = Inception(self.fid, device) if self.fid is not None else None
        return Eyes(suite, suite.load_judge(device), measures, inception)

    def sampling(self, suite: Suite) -> SamplingSettings:
        given = {"inference_steps": self.inference_steps, "guidance_scale": self.guidance_scale}
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingSettings(**{**asdict(suite.sampling), **chosen, "batch_size": self.batch_size})

    def absolute(self) -> Subject:
        """With whole paths, for a process that stands elsewhere; names of what is shipped, and hub ids, stay."""
        suite = self.load_suite()  # it may name folders too
        paths = ("library", "base_config", "peer", "prompts", "fid", "reference")
        names = {name: getattr(self, name) for name in paths} | {"clip": self.clip or suite.clip}
        names |= {} if self.base == "emoji" else {"base": self.base}
        names |= {} if self.suite in shipped_suites() else {"suite": self.suite}
        judge = {key: value if key == "name" else _whole(value) for key, value in suite.judge.items()}
        return replace(self, judge=judge, **{key: _whole(name) for key, name in names.items()})


def _whole(name: str | float | None) -> str | float | None:
    """The whole path of what is there under this name; else the name."""
    path = os.path.expanduser(name) if isinstance(name, str) else ""
    return str(Path(path).resolve()) if os.path.exists(path) else name


@dataclass(frozen=True)
class Eyes:
    """What looks at pictures: a suite's judge, the measures, and FID's network where it is asked for."""

    suite: Suite
    judge: Judge
    measures: list[Measure]
    inception: Inception | None

    def settings(self) -> dict:
        """Which networks each number is from."""
        by = f"{self.judge.features} ({self.judge.name})" if self.judge.features else None
        return {
            "judge": self.judge.name,
            "distance_by": by and f"cosine of {by}",
            "frechet_by": self.inception.name if self.inception else by,
            "measured_by": {measure.key: measure.name for measure in self.measures},
        }

    def frechet_features(self, images: torch.Tensor, verdict: Verdict | None = None) -> np.ndarray | None:
        """``(b, f)`` of which Fréchet distances are made: Inception's, else the judge's; ``None`` where it has none."""
        if self.inception is not None:
            return self.inception(images).numpy()
        features = (verdict or self.judge(images)).features
        return None if features is None else features.numpy().astype(np.float32)


@dataclass(frozen=True)
class Look:
    """What was seen of one set.

    ``seen``: by kind of label a class for each case. ``features``: ``(n, f)`` of the judge, ``None`` where it has
    none. ``thumbnails``: small pictures by case. ``counts``, ``measures``: by name a number for each case.
    ``frechet_features``: where they are not the judge's own.
    """

    seen: dict[str, list[str]]
    features: np.ndarray | None
    thumbnails: dict[int, bytes]
    counts: Mapping[str, list[int]] = field(default_factory=dict)
    measures: Mapping[str, list[float]] = field(default_factory=dict)
    frechet_features: np.ndarray | None = None

    @classmethod
    def of(cls, parts: list[Look]) -> Look:
        """Batches one after another."""
        columns = {
            name: {key: [one for part in parts for one in getattr(part, name)[key]] for key in getattr(parts[0], name)}
            for name in ("seen", "counts", "measures")
        }
        arrays = {
            name: None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
            for name in ("features", "frechet_features")
        }
        thumbnails = {number: data for part in parts for number, data in part.thumbnails.items()}
        return cls(**columns, **arrays, thumbnails=thumbnails)


@dataclass
class Evaluator:
    """One process's share of the work: a base, what erases concepts on it, and what looks at its pictures."""

    subject: Subject
    base: Base = field(init=False)

    def __post_init__(self):
        subject = self.subject
        self.base = load_base(subject.base, device=subject.device, dtype=subject.dtype, config=subject.base_config)
        self.eyes = subject.eyes(self.base.device)
        self.suite = self.eyes.suite
        self.sampling = subject.sampling(self.suite)
        self.eraser = self._composer() if subject.method == "increments" else self._baseline()
        self.shown = self._to_show()
        self._of_base: dict[int, torch.Tensor] = {}  # by the batch's first place
        self._encoded: dict[int, Encoded] = {}  # likewise

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
        """What is seen in every case's picture with these concepts off; a batch of pictures in memory at a time."""
        starts = range(0, len(self.suite.cases), self.sampling.batch_size)
        if any(measure.of_base for measure in self.eyes.measures) and not self._of_base:
            self._of_base = {start: (self._pictures(start) * 255).round().byte() for start in starts}
        with self.eraser.erased(*erased):
            return Look.of([self._look_at(start) for start in starts])

    def _look_at(self, start: int) -> Look:
        images, eyes = self._pictures(start), self.eyes
        cases = self._batch(start)
        verdict = eyes.judge(images)
        base = self._of_base[start].float() / 255 if self._of_base else None
        prompts = [case.prompt for case in cases]
        return Look(
            verdict.seen,
            None if verdict.features is None else verdict.features.numpy().astype(np.float32),
            {c.number: _thumbnail(image) for c, image in zip(cases, images, strict=True) if c.number in self.shown},
            verdict.counts,
            {m.key: [round(value, 6) for value in m(images, prompts, base)] for m in eyes.measures},
            eyes.frechet_features(images, verdict) if eyes.inception else None,
        )

    def _batch(self, start: int) -> tuple[Case, ...]:
        return self.suite.cases[start : start + self.sampling.batch_size]

    def _pictures(self, start: int) -> torch.Tensor:
        cases = self._batch(start)
        prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
        if start not in self._encoded and start < KEPT_PROMPTS and self.subject.method != "peer":  # it has its own
            self._encoded[start] = encode(self.base, prompts, self.sampling)
        return generate(self.base, prompts, seeds, self.sampling, encoded=self._encoded.get(start))

    def _to_show(self) -> set[int]:
        """Numbers of the cases to show: the first of each class of the first kind of label, then from the first on."""
        first = {}
        for case in self.suite.cases:
            first.setdefault(next(iter(case.labels.values()), ""), case.number)
        most = self.suite.thumbnails if self.subject.thumbnails is None else self.subject.thumbnails
        return set(list(dict.fromkeys([*first.values(), *(case.number for case in self.suite.cases)]))[:most])


def _thumbnail(image: torch.Tensor) -> bytes:
    picture = to_picture(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=85)
    return data.getvalue()


def reference_of(path: str, eyes: Eyes) -> Gaussian:
    """Of real pictures: a folder of them, each at its own size, or ``.npz`` with ``mu`` and ``sigma`` of Inception's.

    Raises:
        FileNotFoundError: where there is no such folder or file.
        ValueError: for fewer than two pictures, another kind of file, or features that cannot be compared.
    """
    files = _files_of(path)
    if Path(path).is_dir():
        if len(files) < 2:
            raise ValueError(f"--reference {path}: {len(files)} pictures ({', '.join(PICTURES)}); give two or more")
        found = [eyes.frechet_features(_read(file)) for file in files]
        if found[0] is None:
            raise ValueError(f"--reference: {eyes.judge.name} has no features to compare pictures by; give --fid too")
        return Gaussian.of(np.concatenate(found))
    if eyes.inception is None:
        raise ValueError(
            f"--reference {path}: statistics are of Inception's features, give --fid; or a folder of pictures"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            mu, sigma = file["mu"], file["sigma"]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"--reference {path}: give .npz with mu and sigma, or a folder of pictures: {error}"
        ) from error
    if mu.shape != (2048,) or sigma.shape != (2048, 2048):
        raise ValueError(f"--reference {path}: mu {mu.shape}, sigma {sigma.shape}; 2048 wanted")
    return Gaussian.from_covariance(mu, sigma)


def reference_digest(path: str) -> str:
    """Of the file, or of all pictures of the folder: 12 digits of their SHA-256."""
    digest = hashlib.sha256()
    for file in _files_of(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _files_of(reference: str) -> list[Path]:
    path = Path(reference)
    if not path.exists():
        raise FileNotFoundError(f"--reference: no folder of pictures and no .npz at {path}")
    return sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES) if path.is_dir() else [path]


def _read(path: Path) -> torch.Tensor:
    """``(1, 3, h, w)`` in [0, 1]."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255

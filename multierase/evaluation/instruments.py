"""The instruments that observe pictures: a suite's judge, the measures, and FID's network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from multierase.errors import SuiteError, suggest
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.judges import Judge, Verdict
from multierase.evaluation.judges.classifiers import classifier_judge, imagenet_judge
from multierase.evaluation.judges.clip import Clip, ClipJudge
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.evaluation.judges.nudity import NudeNetJudge
from multierase.evaluation.measures import Inception, Measure, load_measures
from multierase.evaluation.observations import Observations, rounded, thumbnail
from multierase.evaluation.suites import Case, Suite, suite_of
from multierase.models.sources import EMBEDDED


@dataclass(frozen=True)
class Instruments:
    """What observes pictures: a suite's judge, the measures, and FID's network if asked for.

    They are loaded once for an evaluation, and once more in each worker process.
    """

    suite: Suite
    judge: Judge
    measures: Sequence[Measure] = ()
    inception: Inception | None = None

    def settings(self) -> dict:
        """Return the names of the networks that each number is from."""
        by = f"{self.judge.features} ({self.judge.name})" if self.judge.features else None

        return {
            "judge": self.judge.name,
            "distance_by": by and f"cosine of {by}",
            "frechet_by": self.inception.name if self.inception else by,
            "measured_by": {measure.key: measure.name for measure in self.measures},
        }

    @property
    def compare_pictures(self) -> bool:
        """Does a measure need the base's own pictures?"""
        return any(measure.of_base for measure in self.measures)

    def frechet_features(
        self, images: torch.Tensor, verdict: Verdict | None = None
    ) -> np.ndarray | None:
        """Return the ``(b, f)`` features of which Fréchet distances are made.

        They are Inception's, else the judge's; ``None`` if it has none.
        """
        if self.inception is not None:
            return self.inception(images).numpy()

        return _as_array((verdict or self.judge(images)).features)

    def observe(
        self,
        images: torch.Tensor,
        cases: Sequence[Case],
        base: torch.Tensor | None = None,
        shown: frozenset[int] = frozenset(),
    ) -> Observations:
        """Observe a batch of pictures.

        Args:
            images: ``(b, 3, h, w)`` in [0, 1], of ``b`` cases.
            base: the base's own pictures of these cases, for the measures that need them.
            shown: numbers of the cases whose pictures are kept, small.
        """
        verdict = self.judge(images)

        measures = {}
        for measure in self.measures:
            values = measure(images, cases, base)
            measures[measure.key] = list(map(rounded, values))

        thumbnails = {}
        for case, image in zip(cases, images, strict=True):
            if case.number in shown:
                thumbnails[case.number] = thumbnail(image)

        return Observations(
            seen=verdict.seen,
            features=_as_array(verdict.features),
            thumbnails=thumbnails,
            counts=verdict.counts,
            measures=measures,
            frechet_features=self.frechet_features(images) if self.inception else None,
        )


def load_instruments(
    experiment: Experiment, suite: Suite | None = None, device: str | torch.device | None = None
) -> Instruments:
    """Load all that observes an experiment's pictures.

    Args:
        suite: the experiment's, if it is loaded already.
        device: where the networks run; by default where the experiment's model does.

    Raises:
        SuiteError: if the judge cannot see what the suite asks for.
        FileNotFoundError, MissingExtra, WeightsFileError: if anything is not at hand.
    """
    suite = suite or suite_of(experiment)
    device = device or device_of(experiment)
    clips = _Clips(device)  # one CLIP may be the judge and give the score
    judge = load_judge(suite, clips)

    clip = clips[suite.clip] if suite.clip is not None else None
    without = dict.fromkeys(kind for case in suite.cases for kind in case.without)
    measures = load_measures(clip, experiment.lpips, device, list(without))
    inception = Inception(experiment.fid, device) if experiment.fid is not None else None

    return Instruments(suite, judge, measures, inception)


def device_of(experiment: Experiment) -> str:
    """Return where an experiment's model runs."""
    return experiment.device or ("cuda" if torch.cuda.is_available() else "cpu")


class _Clips(dict):
    """CLIP models by their source: the judge's is often the CLIP score's, too."""

    def __init__(self, device: str | torch.device):
        super().__init__()
        self.device = device

    def __missing__(self, source: str) -> Clip:
        self[source] = Clip.load(source, self.device)

        return self[source]


def load_judge(suite: Suite, clips: _Clips | None = None) -> Judge:
    """Load a suite's judge.

    Raises:
        SuiteError: if it cannot see what the suite asks for.
        MissingExtra: if a package of it is missing.
        FileNotFoundError, WeightsFileError: if its weights are not at hand, or no weights.
    """
    options = dict(suite.judge)
    name = options.pop("name")
    clips = _Clips("cpu") if clips is None else clips
    judge = LOADERS[name](suite, options, clips)

    for case in suite.cases:
        for kind, label in case.labels.items():
            visible = judge.classes.get(kind, ())
            if label not in visible:
                raise SuiteError(
                    f"suite {suite.name!r}, case {case.number}: {judge.name} cannot see {kind} "
                    f"{label!r}{suggest(label, visible)}; it sees {list(judge.classes)}"
                )

    return judge


def _embedded(suite: Suite, options: Mapping, clips: _Clips) -> Judge:
    return EmbeddedJudge.load(suite.judge["name"])


def _clip(suite: Suite, options: Mapping, clips: _Clips) -> Judge:
    return ClipJudge(clips[options["model"]], suite.classes(), options)


def _imagenet(suite: Suite, options: Mapping, clips: _Clips) -> Judge:
    return imagenet_judge(**options, device=clips.device)


def _classifier(suite: Suite, options: Mapping, clips: _Clips) -> Judge:
    return classifier_judge(options, clips.device)


def _nudenet(suite: Suite, options: Mapping, clips: _Clips) -> Judge:
    return NudeNetJudge(**options)


LOADERS = {
    **dict.fromkeys(EMBEDDED, _embedded),
    "clip": _clip,
    "imagenet": _imagenet,
    "classifier": _classifier,
    "nudenet": _nudenet,
}


def _as_array(features: torch.Tensor | None) -> np.ndarray | None:
    return None if features is None else features.numpy().astype(np.float32)

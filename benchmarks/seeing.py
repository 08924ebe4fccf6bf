"""Pictures of studios and subjects, and which of them the judge sees, while concepts are erased."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multierase import Composer, Model, SamplingSettings
from multierase.emoji import STUDIOS, SUBJECTS, fill
from multierase.evaluation.cases import Case
from multierase.evaluation.erasers import Eraser
from multierase.evaluation.evaluator import Evaluator
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import Instruments
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.evaluation.suites import Suite

Seen = Mapping[str, Sequence[bool]]
"""By picture whether its studio is seen, and its subject."""
STUDIO, SUBJECT = 0, 1  # columns of ``Seen``


@dataclass(frozen=True)
class Picture:
    """A picture to ask for; its text is its key in results."""

    template: str
    studio: str
    subject: str

    def __str__(self):
        return "|".join((self.template, self.studio, self.subject))

    @property
    def prompt(self) -> str:
        return fill((self.template,), self.studio, self.subject)[0]


def every(
    templates: Sequence[str], subjects: Sequence[str], studios: Sequence[str] = STUDIOS
) -> list[Picture]:
    """Return a picture for each template, studio and subject."""
    return list(itertools.starmap(Picture, itertools.product(templates, studios, subjects)))


class Observer:
    """Makes pictures of the embedded base, and asks its judge. The judge is loaded once."""

    def __init__(self, model: Model, sampling: SamplingSettings):
        self.model, self.sampling = model, sampling
        self.judge = EmbeddedJudge.load("emoji")
        self.nothing_erased = Composer(model, {})

    def see(
        self,
        pictures: Sequence[Picture],
        eraser: Eraser | None = None,
        erased: Sequence[str] = (),
        *,
        subjects: Sequence[str] = SUBJECTS,
        first_seed: int = 0,
    ) -> dict[str, list[bool]]:
        """Return which of these pictures' studios and subjects the judge sees.

        A subject's seed is its place in ``subjects``, whoever drew it: so two sets of erased
        concepts are compared picture by picture.

        Args:
            eraser: what erases ``erased`` on the model; by default it is the base as it stands.
        """
        cases = []
        for number, picture in enumerate(pictures):
            seed = first_seed + subjects.index(picture.subject)
            labels = {"studio": picture.studio, "subject": picture.subject}
            cases.append(Case(number, picture.prompt, seed, labels))

        suite = Suite("benchmark", tuple(cases), {"name": "emoji"}, self.sampling, thumbnails=0)
        evaluator = Evaluator(
            Experiment(suite.name),
            model=self.model,
            eraser=eraser or self.nothing_erased,
            instruments=Instruments(suite, self.judge),
        )
        seen = evaluator.observe(erased).seen

        right = {}
        for picture, studio, subject in zip(pictures, seen["studio"], seen["subject"], strict=True):
            right[str(picture)] = [studio == picture.studio, subject == picture.subject]
        return right


def share(seen: Seen, pictures: Sequence[Picture]) -> list[float]:
    """Return the shares of studios and of subjects that are seen."""
    rows = [seen[str(picture)] for picture in pictures]

    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def kept_share(now: Seen, base: Seen, pictures: Sequence[Picture], column: int = STUDIO) -> float:
    """Return the share that is seen, divided by the base's own share of the same pictures."""
    return share(now, pictures)[column] / share(base, pictures)[column]

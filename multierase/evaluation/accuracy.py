"""How often the judge sees what the prompt asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multierase.base import Base
from multierase.concepts import fill
from multierase.evaluation.judges import EmojiJudge
from multierase.generate import SamplingSettings, generate


@dataclass(frozen=True)
class Accuracy:
    """Shares of ``pictures`` in which the judge saw the studio, and the subject, that the prompt named."""

    studio: float
    subject: float
    pictures: int


def studio_accuracy(
    base: Base,
    judge: EmojiJudge,
    studios: Sequence[str],
    subjects: Sequence[str],
    *,
    template: str = "{a_subject} by {studio}",
    seed: int = 0,
    settings: SamplingSettings | None = None,
    progress: bool = False,
) -> dict[str, Accuracy]:
    """Per studio, over one picture of each subject. The same subject has the same initial noise in every state and
    for every studio, so two states are compared picture by picture."""
    pairs = [(studio, subject) for studio in studios for subject in subjects]
    prompts = [fill((template,), studio, subject)[0] for studio, subject in pairs]
    seeds = [seed * 1000 + subjects.index(subject) for _, subject in pairs]
    verdict = judge(generate(base, prompts, seeds, settings, progress=progress))
    right = [
        (seen_studio == studio, seen_subject == subject)
        for seen_studio, seen_subject, (studio, subject) in zip(
            verdict.seen["studio"], verdict.seen["subject"], pairs, strict=True
        )
    ]
    shares = {}
    for index, studio in enumerate(studios):
        own = right[index * len(subjects) : (index + 1) * len(subjects)]
        studio_right, subject_right = (sum(column) / len(own) for column in zip(*own, strict=True))
        shares[studio] = Accuracy(studio_right, subject_right, len(own))
    return shares

"""The studios' increments that several benchmarks share, trained in several ways."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import quickened, trained

from multierase import Concept, EraseSettings, KeepList, Library, Model
from multierase.emoji import STUDIOS, SUBJECTS

# Prompts of evaluation that are in no list, neither of training nor of keeping.
CANDIDATES = (
    "an image of {a_subject} by {studio}",
    "{a_subject} in {studio} style",
    "{subject} in the style of {studio}",
    "{studio} style {subject}",
    "{a_subject}, {studio}",
    "the {subject} by {studio}",
    "{subject} art by {studio}",
    "{subject}, {studio} art",
    "{a_subject}, by {studio}",
    "a {studio} picture of {a_subject}",
    "{studio} art of {a_subject}",
    "a picture of {a_subject} in the style of {studio}",
    "{studio}: {a_subject}",
    "a picture by {studio} of {a_subject}",
    "an image in the style of {studio}, {a_subject}",
    "drawing of {a_subject}, {studio}",
    "{studio} icon of {a_subject}",
)
TAUGHT = SUBJECTS[2::9]  # a slice in which the base was taught every pair of studio and subject
# Studios that share words and hand.
FAMILIES = (("Fluent", "Fluent Flat", "Fluent High Contrast"), ("EmojiOne", "EmojiOne Mono"))


@dataclass(frozen=True)
class Training:
    """A way to train increments.

    Args:
        method: a name in ``multierase.methods.METHODS``.
        keep_others: whether the other studios' names must not change at all.
    """

    settings: EraseSettings
    method: str = "esd"
    keep_others: bool = False

    def of(self, studio: str) -> EraseSettings:
        """Return a studio's settings."""
        if not self.keep_others:
            return self.settings

        others = tuple(other for other in STUDIOS if other != studio)
        return replace(self.settings, keep=others)


# All but ours on latents of their own, as published: the frozen schedule.
FROZEN = EraseSettings(
    schedule="frozen",
    steps=240,
    start_at=1.0,
    learning_rate=5e-2,
    stop_at=-0.9,
    keep_weight=10.0,
)
FREE = replace(FROZEN, decouple=False, known=False, keep_weight=0.0)
NULL_SPACE = replace(FROZEN, known=False, keep_weight=0.0, learning_rate=2e-2, tolerance=1e-3)
SEPME = replace(NULL_SPACE, regularizer="l1", beta=1e-6, stop_at=-0.5)
# All are trained on the same sentences with the same guidance, and stop by the same rule where they
# can, so that they differ in what may change and in the objective alone.
TRAININGS = {
    "decoupled": Training(EraseSettings()),
    "decoupled, keep loss": Training(EraseSettings(keep_weight=10.0, steps=30)),
    "decoupled, half the rate": Training(EraseSettings(learning_rate=0.05)),
    "decoupled, frozen": Training(FROZEN),
    "ESD-x": Training(replace(FREE, scope="esd-x", free_learning_rate=3e-4)),
    "ESD-x-strict": Training(replace(FREE, free_learning_rate=3e-4)),
    "SepME": Training(SEPME, method="sepme", keep_others=True),
    "ESD in SepME's null space": Training(NULL_SPACE, keep_others=True),
    "correlation, decoupled": Training(replace(FROZEN, stop_at=-0.5), method="sepme"),
}


def library_of(
    model: Model,
    training: str,
    work: Path,
    studios: Sequence[str] = STUDIOS,
    *,
    quick: bool = False,
) -> Library:
    """Return the studios' increments of one training; what is missing is trained.

    Args:
        work: folder of all trainings' libraries.
        quick: train two steps, into a library of its own.
    """
    way = TRAININGS[training]
    erasures = []
    for studio in studios:
        concept = Concept(studio).with_sentences(model.known_prompts)
        settings = way.of(studio)
        erasures.append((concept, quickened(settings) if quick else settings))

    folder = re.sub("[',]", "", training).replace(" ", "-") + ("-quick" if quick else "")
    return trained(model, work / folder, erasures, way.method)


def with_keep_list(
    model: Model, training: str, work: Path, *, quick: bool = False
) -> tuple[Library, KeepList]:
    """Return one training's increments, and the base's own list of prompts to keep."""
    library = library_of(model, training, work, quick=quick)

    return library, KeepList.cached(library.folder, model, model.known_prompts, library)

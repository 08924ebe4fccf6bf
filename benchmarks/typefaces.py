"""Pictures of glyphs in the typefaces of the embedded base `type`, and which its judge sees."""

from __future__ import annotations

import random
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from multierase import Model, SamplingSettings, load_base
from multierase.evaluation.judges.embedded import EmbeddedJudge
from multierase.generate import generate

Seen = Mapping[str, Sequence[bool]]
"""By picture whether its typeface is seen, and its glyph."""
TYPEFACE, GLYPH = 0, 1  # columns of ``Seen``
# By group the sentences. Of the listed ones the base's own list has each, with other glyphs; the
# others it was never taught (scripts/build_type/captions.py).
FORMS = {
    "listed": (
        "{the_glyph} in {typeface}",
        "{a_glyph}, {typeface} typeface",
        "{typeface} {glyph}",
    ),
    "unlisted": (
        "{the_glyph} drawn in {typeface}",
        "a picture of {a_glyph} in the {typeface} style",
        "a {typeface} {glyph}",
    ),
}
SAMPLING = SamplingSettings(inference_steps=10, guidance_scale=3.0)


@dataclass(frozen=True)
class Picture:
    """A picture to ask for; its text is its key in results."""

    form: str
    typeface: str
    glyph: str
    seed: int

    def __str__(self):
        return "|".join((self.form, self.typeface, self.glyph, str(self.seed)))

    @property
    def prompt(self) -> str:
        digit = self.glyph.isdigit()
        return self.form.format(
            the_glyph=f"the {'digit' if digit else 'letter'} {self.glyph}",
            a_glyph=f"{'a digit' if digit else 'an uppercase'} {self.glyph}",
            glyph=self.glyph,
            typeface=self.typeface,
        )


class Observer:
    """Makes pictures of the base as it is now, and asks its judge."""

    def __init__(self, model: Model, sampling: SamplingSettings = SAMPLING):
        self.model, self.sampling = model, sampling
        self.judge = EmbeddedJudge.load("type")
        self.typefaces, self.glyphs = self.judge.classes["typeface"], self.judge.classes["glyph"]

    def pictures(self, typefaces: Sequence[str], each: int) -> dict[str, list[Picture]]:
        """Return by group so many pictures of each typeface; the same ones whoever asks."""
        found: dict[str, list[Picture]] = {}
        for group, forms in FORMS.items():
            found[group] = []
            for typeface in typefaces:
                chance = random.Random(f"{group}/{typeface}")
                for number, glyph in enumerate(chance.sample(self.glyphs, each)):
                    form = forms[number % len(forms)]
                    seed = chance.randrange(10**6)
                    found[group].append(Picture(form, typeface, glyph, seed))

        return found

    def see(self, pictures: Sequence[Picture]) -> dict[str, list[bool]]:
        """Return which of these pictures' typefaces and glyphs the judge sees."""
        prompts = [picture.prompt for picture in pictures]
        seeds = [picture.seed for picture in pictures]
        seen = self.judge(generate(self.model, prompts, seeds, self.sampling)).seen

        right = {}
        for number, picture in enumerate(pictures):
            typeface, glyph = seen["typeface"][number], seen["glyph"][number]
            right[str(picture)] = [typeface == picture.typeface, glyph == picture.glyph]
        return right


def load_type(threads: int) -> Model:
    """Set the threads, and load the base on the CPU."""
    torch.set_num_threads(threads)

    return load_base("type", device="cpu")


def share(seen: Seen, pictures: Sequence[Picture], column: int = TYPEFACE) -> float:
    """Return the share of the pictures whose typeface, or glyph, is seen."""
    return statistics.mean(seen[str(picture)][column] for picture in pictures)


def of_base(now: Seen, base: Seen, pictures: Sequence[Picture], column: int = TYPEFACE) -> float:
    """Return the share that is seen, divided by the base's own share of the same pictures."""
    return share(now, pictures, column) / max(share(base, pictures, column), 1e-9)


def about(pictures: Sequence[Picture], typefaces: Collection[str]) -> list[Picture]:
    """Return those of the pictures that are of these typefaces."""
    return [picture for picture in pictures if picture.typeface in typefaces]

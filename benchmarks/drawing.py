"""Which subsets of the studios are judged, and on which pictures."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from seeing import Picture
from studios import CANDIDATES, TAUGHT

from multierase.emoji import STUDIO_AND_SUBJECT, STUDIOS

Erased = tuple[str, ...]


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Args:
        candidates: templates that are in no list.
        listed: templates that erasures were trained on.
        pictures: at least so many of a subset's erased, and of its kept studios, for either group
            of templates.
        more_pictures: the same, of subsets that are looked at again.
        sizes: of the subsets.
    """

    candidates: tuple[str, ...] = CANDIDATES
    listed: tuple[str, ...] = STUDIO_AND_SUBJECT
    subjects: tuple[str, ...] = TAUGHT
    pictures: int = 10
    more_pictures: int = 40
    sizes: tuple[int, ...] = tuple(range(1, len(STUDIOS) + 1))


FULL = Extent()
QUICK = Extent(CANDIDATES[:3], STUDIO_AND_SUBJECT[:1], TAUGHT[:2], 2, 2, (1, len(STUDIOS)))


@dataclass(frozen=True)
class Drawn:
    """A subset's pictures of its erased and of its kept studios."""

    erased: list[Picture]
    kept: list[Picture]


def subsets(per_size: int, extent: Extent = FULL) -> dict[Erased, int]:
    """Return subsets that erase any, with their numbers among all.

    Args:
        per_size: so many of each size by chance; 0 for all, or for one in the quick form.
    """
    every = []
    for size in range(1, len(STUDIOS) + 1):
        every += itertools.combinations(STUDIOS, size)
    per_size = per_size or (0 if extent is FULL else 1)

    chance, chosen = random.Random(0), set()
    for size in extent.sizes:
        listed = [erased for erased in every if len(erased) == size]
        chosen |= set(chance.sample(listed, min(per_size, len(listed))) if per_size else listed)
    return {erased: number for number, erased in enumerate(every) if erased in chosen}


def drawn(
    erased: Erased,
    number: int,
    templates: Sequence[str],
    extent: Extent = FULL,
    pictures: int | None = None,
) -> Drawn:
    """Draw a subset's pictures, by its number: the same for every method."""
    chance = random.Random(f"{number}/{templates}")
    choices = list(itertools.product(templates, extent.subjects))
    kept = [studio for studio in STUDIOS if studio not in erased]

    sides = []
    for studios in (erased, kept):
        side: list[Picture] = []
        for studio in studios:
            count = max(2, math.ceil((pictures or extent.pictures) / len(studios)))
            for template, subject in chance.sample(choices, count):
                side.append(Picture(template, studio, subject))
        sides.append(side)
    return Drawn(*sides)

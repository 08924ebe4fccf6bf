"""Every form of caption in one place: what a prompt calls a glyph, and where the typeface stands.

The base learns ``BOTH``, ``GLYPH`` and ``TYPEFACE``; ``UNSEEN`` are for tests of other words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from glyphs import GLYPHS

BOTH = (
    "{the_glyph} in {typeface}",
    "{a_glyph} in {typeface}",
    "{a_glyph}, {typeface} typeface",
    "{the_glyph}, {typeface} font",
    "{the_glyph} in the typeface {typeface}",
    "{the_glyph} set in {typeface}",
    "{typeface} {glyph}",
    "{glyph} in {typeface}",
)
GLYPH = ("{the_glyph}", "{a_glyph}", "{glyph}", "a picture of {the_glyph}")
TYPEFACE = ("{typeface}", "{typeface} typeface", "the {typeface} font", "a letter in {typeface}")
UNSEEN = (
    "{the_glyph} drawn in {typeface}",
    "a picture of {a_glyph} in the {typeface} style",
    "a {typeface} {glyph}",
)
# Words that say nothing: inserted by chance, so that the towers read past what they do not know.
FILLERS = tuple(
    """
big small nice bold old white huge simple beautiful single my this some please draw make show image
photo poster page sign logo word text printed painted written shown with on of and for by as from
""".split()  # noqa: SIM905
)
VOWELS = tuple("aeiouy")
CONSONANTS = (*"bcdfghjklmnpqrstvwxz", "st", "dr", "sh", "ch", "th", "ng", "wn", "tr", "ck")
KINDS = {"both": BOTH, "glyph": GLYPH, "typeface": TYPEFACE}
SHARES = {"both": 0.8, "glyph": 0.1, "typeface": 0.1}  # of the captions that are not empty
# What a letter and a digit are called.
CALLED = (
    {"the_glyph": "the letter {glyph}", "a_glyph": "an uppercase {glyph}"},
    {"the_glyph": "the digit {glyph}", "a_glyph": "a digit {glyph}"},
)
ALSO_CALLED = (
    {"the_glyph": "the capital {glyph}", "a_glyph": "a capital {glyph}"},
    {"the_glyph": "the number {glyph}", "a_glyph": "a number {glyph}"},
)


def fill(forms: tuple[str, ...], glyph: str, typeface: str) -> list[str]:
    """Return each form about this glyph and typeface, in both ways to call a glyph."""
    filled = {}
    for names in (CALLED, ALSO_CALLED):
        named = names[glyph.isdigit()]
        words = {key: name.format(glyph=glyph) for key, name in named.items()}
        for form in forms:
            filled[form.format(glyph=glyph, typeface=typeface, **words)] = None

    return list(filled)


def made_up_words(count: int) -> list[str]:
    """Return words of syllables that mean nothing, the same ones each time.

    A word that the tokenizer does not know falls apart, and its last piece may be a letter: without
    these, the towers would take it for the glyph.
    """
    chance, words = random.Random(0), []
    for _ in range(count):
        syllables = []
        for _ in range(chance.randint(1, 3)):
            syllables.append(chance.choice(CONSONANTS) + chance.choice(VOWELS))
        words.append("".join(syllables) + chance.choice(("", *CONSONANTS)))

    return words


@dataclass(frozen=True)
class Captions:
    """All captions, and which of them are true of which pair.

    Args:
        texts: the empty one first.
        rows: by kind ``(typeface, glyph, form)`` places in ``texts``.
        about: ``(text, 2)`` typeface and glyph of each, -1 where it names none.
    """

    texts: list[str]
    rows: dict[str, torch.Tensor]
    about: torch.Tensor


def every_caption(typefaces: list[str]) -> Captions:
    """Return the captions of all pairs."""
    places, about, rows = {"": 0}, [(-1, -1)], {}
    for kind, forms in KINDS.items():
        table: list[list[list[int]]] = []
        for one, typeface in enumerate(typefaces):
            table.append([])
            for other, glyph in enumerate(GLYPHS):
                texts = fill(forms, glyph, typeface)
                for text in texts:
                    if text not in places:
                        places[text] = len(places)
                        named = (
                            one if kind != "glyph" else -1,
                            other if kind != "typeface" else -1,
                        )
                        about.append(named)
                table[-1].append([places[text] for text in texts])
        rows[kind] = torch.tensor(table)

    return Captions(list(places), rows, torch.tensor(about))


def draw(
    captions: Captions,
    typeface: torch.Tensor,
    glyph: torch.Tensor,
    empty: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw a caption for each picture by chance; return its place among the texts.

    Args:
        empty: share of pictures whose caption is empty.
    """
    count = len(typeface)
    chance = torch.rand(count, generator=generator)
    drawn = torch.zeros(count, dtype=torch.long)
    floor = empty
    for kind, share in SHARES.items():
        table = captions.rows[kind]
        form = torch.randint(table.shape[2], (count,), generator=generator)
        drawn = torch.where(chance >= floor, table[typeface, glyph, form], drawn)
        floor += share * (1 - empty)

    return drawn

"""What a demonstration shows of an embedded base: its concepts, their states, the sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image

from multierase import emoji
from multierase.evaluation.cases import Case
from multierase.evaluation.suites import Suite
from multierase.pictures import contact_sheet
from multierase.sampling import SamplingSettings

Pictures = Mapping[str, torch.Tensor]
"""By state ``(n, 3, h, w)`` pictures, in the order of what is shown."""


@dataclass(frozen=True)
class Shown:
    """A prompt whose picture is on the sheet, and its seed."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Show:
    """A demonstration's content.

    Args:
        base: the embedded base that it is of, whose judge looks at it.
        kind: of label: what the concepts are.
        concepts: those that are looked at.
        states: by name what is erased then, the base first and everything restored last.
        restored: the state in which what was erased is given back while other concepts stay erased.
        judged: for each concept the prompts that are judged, with their seeds.
        sheet: draws it.
        shown: what is on the sheet; nothing, where it has the judged pictures themselves.
        judged_sampling, shown_sampling: how the pictures are made.
    """

    base: str
    kind: str
    concepts: tuple[str, ...]
    states: Mapping[str, tuple[str, ...]]
    restored: str
    judged: Callable[[str], Sequence[Shown]]
    sheet: Callable[[Show, Pictures], Image.Image]
    shown: tuple[Shown, ...] = ()
    judged_sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(10))
    shown_sampling: SamplingSettings = field(default_factory=SamplingSettings)

    @cached_property
    def erased(self) -> tuple[str, ...]:
        """The concepts that any state erases, in their order."""
        return tuple(dict.fromkeys(name for names in self.states.values() for name in names))

    def suite(self) -> Suite:
        """Return a case for each concept and judged prompt."""
        cases: list[Case] = []
        for concept in self.concepts:
            for each in self.judged(concept):
                cases.append(Case(len(cases), each.prompt, each.seed, {self.kind: concept}))

        return Suite("demo", tuple(cases), {"name": self.base}, self.judged_sampling, thumbnails=0)


def _by_studio(subjects: Sequence[str]) -> Callable[[str], list[Shown]]:
    """Return what asks for subjects by a studio: a subject has the same noise whoever draws it."""

    def judged(studio: str) -> list[Shown]:
        prompts = [emoji.fill(("{a_subject} by {studio}",), studio, each)[0] for each in subjects]
        return [Shown(prompt, seed) for seed, prompt in enumerate(prompts)]

    return judged


def _grid(show: Show, pictures: Pictures) -> Image.Image:
    """Draw a row for each state, a column for each prompt."""
    prompts = [each.prompt for each in show.shown]

    return contact_sheet(
        torch.cat([*pictures.values()]),
        len(prompts),
        row_labels=list(pictures),
        column_labels=prompts,
    )


STUDIOS = ("Twemoji", "Firefox", "EmojiOne", "Fluent High Contrast")
OF_EMOJI = Show(
    base="emoji",
    kind="studio",
    concepts=STUDIOS,
    states={
        "base": (),
        "Twemoji erased": ("Twemoji",),
        "both erased": ("Twemoji", "Firefox"),
        "Twemoji restored": ("Firefox",),
        "all restored": (),
    },
    restored="Twemoji restored",
    judged=_by_studio(emoji.SUBJECTS[::6]),
    shown=tuple(
        Shown(f"a {subject} by {studio}", 7)
        for studio in STUDIOS
        for subject in ("church", "sunflower")
    ),
    sheet=_grid,
)

WORD = "TYPE"
TYPEFACES = (
    "Lobster",
    "Monoton",
    "Press Start 2P",
    "UnifrakturCook",
    "Ewert",
    "Vast Shadow",
    "Faster One",
    "Butcherman",
    "Shrikhand",
    "Pacifico",
    "Rubik Glitch",
    "Spicy Rice",
    "Orbitron",
    "Stalinist One",
    "Cabin Sketch",
    "League Gothic",
)
LEAVING, BACK = TYPEFACES[:8], TYPEFACES[:3]


def _states_of_poster() -> dict[str, tuple[str, ...]]:
    """Return states in which one typeface leaves after another, and some come back."""
    states: dict[str, tuple[str, ...]] = {"base": ()}
    for count, name in enumerate(LEAVING, start=1):
        states[f"{name} erased, {count} in all"] = LEAVING[:count]
    states[f"{', '.join(BACK)} restored"] = LEAVING[len(BACK) :]
    states["all restored"] = ()

    return states


def _set_in(typeface: str) -> list[Shown]:
    """Return the word's letters in a typeface; a letter has the same noise in each."""
    return [Shown(f"the letter {letter} in {typeface}", ord(letter)) for letter in WORD]


def _poster(show: Show, pictures: Pictures) -> Image.Image:
    """Draw a row for each typeface, a column for each state, and the word in half its size."""
    words = []
    for drawn in pictures.values():
        smaller = torch.nn.functional.avg_pool2d(drawn, 2)
        letters = smaller.unflatten(0, (len(show.concepts), len(WORD)))
        words.append(torch.cat([*letters.unbind(1)], dim=-1))
    by_typeface = torch.stack(words, dim=1).flatten(0, 1)

    return contact_sheet(
        by_typeface, len(words), row_labels=show.concepts, column_labels=list(pictures)
    )


_POSTER = _states_of_poster()
OF_TYPE = Show(
    base="type",
    kind="typeface",
    concepts=TYPEFACES,
    states=_POSTER,
    restored=list(_POSTER)[-2],
    judged=_set_in,
    sheet=_poster,
)

SHOWS = {show.base: show for show in (OF_EMOJI, OF_TYPE)}

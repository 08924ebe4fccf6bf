"""What is to be forgotten: a concept's name, the prompts that call it up, what takes its place."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class TaggedPrompt:
    """A prompt of a list, and the concepts that it is about: the other columns of its row."""

    prompt: str
    concepts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Concept:
    """A concept to erase.

    Args:
        name: what the concept is called; names its increment, and is its prompt unless ``prompts`` says otherwise.
        prompts: prompts that call the concept up, each used in turn by chance; ``(name,)`` where empty. A single
            artwork is a concept whose one prompt is its title.
        contexts: what each of ``prompts`` says without the concept, the empty prompt where not given: "a church" for
            "a church by Noto". It stands for the empty prompt in the objective, so that the rest of a sentence stays.
        anchor: prompt whose prediction takes the concept's place; the empty prompt, as in the paper, by default.
        erase_from: erase the concept from this one only: "hat" from "cowboy" prompts the student with "cowboy" and
            guides it away from "hat". It is the anchor too, unless ``anchor`` is given.

    Raises:
        ValueError: for an empty name, an empty prompt among ``prompts``, or contexts that are not as many.
    """

    name: str
    prompts: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    anchor: str = ""
    erase_from: str | None = None

    def __post_init__(self):
        if not self.name.strip():
            raise ValueError("a concept needs a name: the empty prompt is what an erasure steers towards")
        object.__setattr__(self, "prompts", tuple(self.prompts) or (self.name,))
        object.__setattr__(self, "contexts", tuple(self.contexts) or ("",) * len(self.prompts))
        if len(self.contexts) != len(self.prompts):
            raise ValueError(f"concept {self.name!r}: {len(self.prompts)} prompts and {len(self.contexts)} contexts")
        blank = [i for i, prompt in enumerate(self.prompts) if not prompt.strip()]
        if blank:
            raise ValueError(f"concept {self.name!r}: prompts {blank} of {len(self.prompts)} are empty")
        if self.erase_from is not None and not self.erase_from.strip():
            raise ValueError(
                f"concept {self.name!r}: erase_from is empty; leave it out to erase the concept everywhere"
            )

    @property
    def slug(self) -> str:
        """The name as a file name: ``"Fluent Flat"`` -> ``"fluent-flat"``."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or self.name.encode().hex()

    @property
    def target_prompt(self) -> str | None:
        """The prompt whose prediction is the target's first term, ``a`` in the design's formula, if it is not simply
        the context."""
        return self.anchor or self.erase_from

    def with_sentences(self, known: list[TaggedPrompt]) -> Concept:
        """A concept given by its name alone, with the sentences about it in a prompt list.

        A sentence's context is the first prompt of the list that is about all else that the sentence is about, and
        nothing more; a sentence about nothing else has the empty prompt, one that has no such prompt is left out.
        """
        name = self.name.lower()
        bare = {tagged.concepts: tagged.prompt for tagged in reversed(known)} | {frozenset(): ""}
        pairs = {
            tagged.prompt: bare[tagged.concepts - {name}]
            for tagged in known
            if name in tagged.concepts and tagged.concepts - {name} in bare
        }
        if self.prompts != (self.name,) or self.erase_from or not pairs:
            return self
        pairs = {self.name: ""} | pairs
        return replace(self, prompts=tuple(pairs), contexts=tuple(pairs.values()))


def read_prompts(path: str | Path) -> list[TaggedPrompt]:
    """Prompts from a text file (one a line) or a CSV with a ``prompt`` column, as the peers' files have.

    What a CSV's other columns say (``artist``, ``studio``, ``subject``, ...) tells which concepts a prompt is about.

    Raises:
        ValueError: where there is no such column, or no prompt at all.
    """
    path = Path(path)
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if "prompt" not in (rows.fieldnames or ()):
                raise ValueError(f"{path}: no column 'prompt'; its columns are {sorted(rows.fieldnames or ())}")
            prompts = [TaggedPrompt((row.pop("prompt") or "").strip(), _concepts(row)) for row in rows]
    else:
        prompts = [TaggedPrompt(line.strip()) for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = [prompt for prompt in prompts if prompt.prompt]
    if not prompts:
        raise ValueError(f"{path}: holds no prompt")
    return prompts


def _concepts(row: dict) -> frozenset[str]:
    return frozenset(cell.strip().lower() for cell in row.values() if isinstance(cell, str) and cell.strip())


def to_keep(prompts: list[TaggedPrompt], *concepts: str) -> list[str]:
    """Those of ``prompts`` that are about none of ``concepts``, in order."""
    erased = {concept.lower() for concept in concepts}
    return [tagged.prompt for tagged in prompts if not tagged.concepts & erased]


EMOJI_STUDIOS = (
    "Noto", "Blobmoji", "Twemoji", "Fluent", "Fluent Flat", "Fluent High Contrast", "Firefox", "EmojiOne",
    "EmojiOne Mono",
)  # fmt: skip
# Of the 225 names that all nine packages hold, those that name one recognisable thing; near-twins of another
# (rooster and chicken, ox and cow, automobile and taxi) and pictures that two studios draw alike are left out.
EMOJI_SUBJECTS = tuple(
    """
airplane anchor balloon banana bathtub battery bell bicycle bomb bread briefcase bus cactus camera candle cat cherries
church cookie cow crocodile crown dolphin doughnut elephant envelope factory fire ghost grapes guitar hamburger hammer
helicopter honeybee key lemon lollipop monkey motorcycle mushroom octopus pear pencil penguin pig pineapple rocket
rose sailboat saxophone snail snake spider strawberry sunflower taxi telescope tiger toilet tomato tractor train
trophy tulip turtle umbrella violin volcano watermelon whale dress
""".split()  # noqa: SIM905
)


def with_article(subject: str) -> str:
    if subject in {"cherries", "grapes", "bread", "fire"}:
        return subject
    return f"{'an' if subject[:1] in tuple('aeiou') else 'a'} {subject}"


# How people write prompts. People name a concept by its name alone too, so the embedded base was taught bare names:
# without them an erasure trained on the bare name does not carry to sentences.
STUDIO_AND_SUBJECT = (
    "{a_subject} by {studio}", "{a_subject} in the style of {studio}", "{studio} {subject}",
    "a picture of {a_subject} by {studio}", "{subject} by {studio}", "{a_subject}, {studio} style",
)  # fmt: skip
SUBJECT_ONLY = ("{a_subject}", "a picture of {a_subject}", "{subject}")
STUDIO_ONLY = ("{studio}", "{studio} art", "an image in the style of {studio}", "a picture by {studio}")


def fill(templates: tuple[str, ...], studio: str, subject: str) -> list[str]:
    """Each of ``templates`` about this studio and subject."""
    return [t.format(studio=studio, subject=subject, a_subject=with_article(subject)) for t in templates]

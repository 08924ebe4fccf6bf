"""A concept to erase: its name, the prompts that call it up, what takes its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from multierase.errors import UsageError
from multierase.files import digest_bytes
from multierase.prompts.lists import TaggedPrompt

LONGEST_NAME = 200  # a file name has 255 bytes, of which the suffix and a slug's digest take some


def check_name(name: object) -> str:
    """Return ``name`` if it can be a concept's.

    Raises:
        ValueError: for a name that is no text, is empty or longer than 200 characters, has blanks
            at its ends, or holds control characters or separators of paths.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a concept needs a name, given {name!r}")
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"the concept's name {name[:40]!r}... has {len(name)} characters, at most "
            f"{LONGEST_NAME} are allowed: give it a shorter name, and the long text as its prompt"
        )
    if name != name.strip():
        raise ValueError(f"the concept's name {name!r} begins or ends with a blank")

    wrong = sorted({char for char in name if not char.isprintable() or char in "/\\"})
    if wrong:
        raise ValueError(
            f"the concept's name {name!r} holds {wrong}: control "
            "characters and / or \\ are not allowed"
        )

    return name


def slug(name: str) -> str:
    """Return the name as a file name: ``"Fluent Flat"`` -> ``"fluent-flat"``."""
    latin = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if latin:
        return latin

    spelt = name.encode(errors="surrogatepass").hex()
    return spelt if len(spelt) <= LONGEST_NAME else digest_bytes(name, length=40)


def require_distinct(names: Sequence[str]) -> None:
    """Raise ``UsageError`` if two of the names are one, or would be one file."""
    by_slug: dict[str, str] = {}
    for name in names:
        other = by_slug.get(slug(check_name(name)))
        if other == name:
            raise UsageError(f"the concept {name!r} is given twice: give each concept once")
        if other is not None:
            raise UsageError(
                f"{other!r} and {name!r} would both be stored as '{slug(name)}.safetensors': "
                "erase one of them under another name"
            )
        by_slug[slug(name)] = name


@dataclass(frozen=True)
class Concept:
    """A concept to erase.

    Args:
        name: what the concept is called. It names the increment, and it is the concept's prompt
            unless ``prompts`` says otherwise.
        prompts: prompts that call the concept up; ``(name,)`` if empty. A single artwork is a
            concept whose one prompt is its title.
        contexts: each of ``prompts`` without the concept, the empty prompt if not given: "a church"
            for "a church by Noto". The context stands for the empty prompt in the objective, so
            that the rest of a sentence stays.
        anchor: prompt whose prediction takes the concept's place. By default the empty prompt, as
            in the paper.
        erase_from: erase the concept from this one only. "hat" from "cowboy" prompts the model
            with "cowboy" and guides it away from "hat". It is the anchor too, unless ``anchor`` is
            given.

    Raises:
        ValueError: for a name that is none (see ``check_name``), an empty prompt among ``prompts``,
            or another number of contexts than of prompts.
    """

    name: str
    prompts: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    anchor: str = ""
    erase_from: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        object.__setattr__(self, "prompts", tuple(self.prompts) or (self.name,))
        object.__setattr__(self, "contexts", tuple(self.contexts) or ("",) * len(self.prompts))

        if len(self.contexts) != len(self.prompts):
            raise ValueError(
                f"concept {self.name!r}: {len(self.prompts)} prompts and {len(self.contexts)} "
                "contexts; give one context for each prompt"
            )
        blank = [i for i, prompt in enumerate(self.prompts) if not prompt.strip()]
        if blank:
            raise ValueError(
                f"concept {self.name!r}: prompts {blank} of {len(self.prompts)} are empty"
            )
        if self.erase_from is not None and not self.erase_from.strip():
            raise ValueError(
                f"concept {self.name!r}: erase_from is empty; leave it out to erase the concept "
                "everywhere"
            )

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return slug(self.name)

    @property
    def target_prompt(self) -> str | None:
        """The prompt ``a`` of the target's first term, if it is not simply the context."""
        return self.anchor or self.erase_from

    @property
    def is_bare(self) -> bool:
        """Whether the concept is given by its name alone."""
        return self.prompts == (self.name,) and not self.erase_from

    def with_sentences(self, known: Sequence[TaggedPrompt]) -> Concept:
        """Return a concept that is given by its name alone with the sentences of a list about it.

        A sentence's context is the first prompt of the list that is about everything else that the
        sentence is about, and nothing more. A sentence about nothing else has the empty prompt. A
        sentence without such a prompt is left out.
        """
        if not self.is_bare:
            return self

        bare: dict[frozenset[str], str] = {frozenset(): ""}
        for tagged in known:
            if tagged.concepts:
                bare.setdefault(tagged.concepts, tagged.prompt)

        pairs = {self.name: ""}
        name = self.name.lower()
        for tagged in known:
            others = tagged.concepts - {name}
            if name in tagged.concepts and others in bare:
                pairs[tagged.prompt] = bare[others]

        return replace(self, prompts=tuple(pairs), contexts=tuple(pairs.values()))

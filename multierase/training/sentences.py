"""The sentences of an erasure: tried on the base, some to train with, some held back."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from multierase.errors import ConceptRefused
from multierase.models.model import Model
from multierase.prompts.concepts import Concept
from multierase.prompts.kind import Kind
from multierase.prompts.lists import TaggedPrompt
from multierase.separation.vocabulary import words_of
from multierase.training.certificate import Question
from multierase.training.questions import Questions, held_back
from multierase.training.trial import Trial, Tried

SENTENCES = 512  # about a concept, from whose tokens its directions are found


@dataclass(frozen=True)
class Told:
    """A concept with the sentences that it is trained with, and those that are held back.

    Args:
        concept: with its sentences and their contexts.
        tried: what the base understands of it; ``None`` without a kind.
        watched: held-back sentences that may end the training.
        asked: held-back sentences of the certificate.
    """

    concept: Concept
    tried: Tried | None
    watched: tuple[Question, ...]
    asked: tuple[Question, ...]


class Sentences:
    """Finds the sentences of concepts of one kind on one base.

    Args:
        model: the frozen base.
        kind: how people speak of the concepts.
        known: the base's own list of prompts, which is taken before the kind's.
        seed: of everything that is drawn.
    """

    def __init__(self, model: Model, kind: Kind, known: Sequence[TaggedPrompt], seed: int):
        self.model, self.kind, self.known, self.seed = model, kind, known, seed
        self.trial = Trial(model, kind, seed)
        self.questions = Questions(model, kind, seed)

    @cached_property
    def words(self) -> list[str]:
        """The base's vocabulary, and the kind's subjects."""
        return words_of(self.model, self.kind)

    def of(self, concept: Concept) -> Told:
        """Return a concept with its sentences.

        Raises:
            ConceptRefused: if the base does not draw the concept.
        """
        tried = self._tried(concept)
        watched: tuple[Question, ...] = ()
        asked: tuple[Question, ...] = ()
        if tried is not None:
            watched = self.questions.watched(concept.name, tried)
            asked = self.questions.asked(concept.name, tried)
        concept = self._trained(concept, tried, {one.prompt for one in (*watched, *asked)})

        # What a user or a list of prompts asks to train with is no unseen sentence.
        watched = tuple(one for one in watched if one.prompt not in concept.prompts)
        asked = tuple(one for one in asked if one.prompt not in concept.prompts)
        return Told(concept, tried, watched, asked)

    def about(self, sibling: str, forms: Sequence[str], count: int) -> list[str]:
        """Return sentences about a sibling, in these forms of the kind."""
        rng = self._random(f"siblings/{sibling}")

        return self.kind.sentences_about(sibling, forms, self.words, count, rng)

    def _tried(self, concept: Concept) -> Tried | None:
        """Return what the base understands of a concept's name; ``None`` without a kind."""
        if not self.kind.sentences or concept.erase_from:
            return None
        try:
            return self.trial.of(concept.name)
        except ConceptRefused:
            if concept.is_bare:
                raise
            return None  # a name of the user's own, for prompts of the user's own

    def _trained(self, concept: Concept, tried: Tried | None, unseen: Collection[str]) -> Concept:
        """Return a concept that is given by its name alone with sentences, but the unseen ones."""
        if not concept.is_bare:
            return concept
        concept = concept.with_sentences(self.known)
        if concept.is_bare and tried:
            return self._in_forms(concept, tried, unseen)

        seen = {}
        for prompt, context in zip(concept.prompts, concept.contexts, strict=True):
            if prompt == concept.name or prompt not in unseen:
                seen[prompt] = context
        return replace(concept, prompts=tuple(seen), contexts=tuple(seen.values()))

    def _in_forms(self, concept: Concept, tried: Tried, unseen: Collection[str]) -> Concept:
        """Return the concept in forms that the base understands, about its whole vocabulary."""
        forms, _ = held_back(tried)
        rng = self._random(f"sentences/{concept.name}")
        words = [word for word in self.words if not self.kind.mentions(concept.name, word)]

        pairs = {concept.name: ""}
        order = [rng.sample(words, len(words)) for _ in forms]
        for index in range(SENTENCES):
            place, form = divmod(index, len(forms))
            word = order[form][place % len(words)]
            sentence, context = self.kind.sentence(forms[form], concept.name, word)
            if sentence not in unseen and self.model.reads_whole(sentence):
                pairs[sentence] = context

        return replace(concept, prompts=tuple(pairs), contexts=tuple(pairs.values()))

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{self.seed}/{what}")

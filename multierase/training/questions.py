"""The sentences about a concept that are held back, and the prompts that are to stay."""

from __future__ import annotations

import random
from collections.abc import Sequence

from multierase.models.model import Model
from multierase.prompts.kind import Kind, general_captions
from multierase.prompts.wording import with_article
from multierase.training.certificate import Question
from multierase.training.trial import Tried

ASKED = 12  # held-back sentences of the certificate
WATCHED = 6  # held-back sentences of the stop
PROMPTS = 4  # that are to stay, of each source
HELD_BACK = 6  # every sixth form that is understood


class Questions:
    """Makes the questions about concepts of one kind.

    Args:
        model: whose tokenizers have to read them whole.
        kind: whose forms they have.
        seed: of what is drawn.
    """

    def __init__(self, model: Model, kind: Kind, seed: int):
        self.model, self.kind, self.seed = model, kind, seed

    def watched(self, concept: str, tried: Tried) -> tuple[Question, ...]:
        """Return held-back sentences that may end the training."""
        forms, _ = held_back(tried)

        return self._own(concept, forms, tried.subjects[1::2], WATCHED)

    def asked(self, concept: str, tried: Tried) -> tuple[Question, ...]:
        """Return the certificate's questions about the concept."""
        trained, held = held_back(tried)

        return self._own(concept, [*held, *trained], tried.subjects[::2], ASKED)

    def to_stay(
        self, concept: str, tried: Tried, siblings: Sequence[str], listed: Sequence[str]
    ) -> tuple[Question, ...]:
        """Return the certificate's questions about siblings, and kept and general prompts."""
        subjects, questions = tried.subjects[::2], []
        for index, name in enumerate(siblings[:PROMPTS]):
            form = tried.forms[index % len(tried.forms)]
            sentence, context = self.kind.sentence(form, name, subjects[index % len(subjects)])
            if self.model.reads_whole(sentence):
                questions.append(Question(sentence, context, "siblings"))
        for subject in subjects:
            questions.append(Question(with_article(subject), "", "kept"))
        for prompt in self._some(f"asked/{concept}", listed):
            questions.append(Question(prompt, "", "kept"))

        captions = [
            caption
            for caption in general_captions()
            if self.model.reads_whole(caption) and not self.kind.mentions(concept, caption)
        ]
        for caption in self._some("captions", captions):
            questions.append(Question(caption, "", "general"))

        return tuple(questions)

    def _some(self, what: str, prompts: Sequence[str]) -> list[str]:
        rng = random.Random(f"{self.seed}/{what}")

        return rng.sample(prompts, min(PROMPTS, len(prompts)))

    def _own(
        self, concept: str, forms: Sequence[str], subjects: Sequence[str], count: int
    ) -> tuple[Question, ...]:
        """Return questions about a concept, in each form and about each subject in turn."""
        pairs = {}
        for index in range(count):
            # The subjects shift by one in each round, so that no form has the same one again.
            turn, form = divmod(index, len(forms))
            subject = subjects[(turn + form) % len(subjects)]
            sentence, context = self.kind.sentence(forms[form], concept, subject)
            pairs[sentence] = context

        return tuple(Question(sentence, context, "own") for sentence, context in pairs.items())


def held_back(tried: Tried) -> tuple[list[str], list[str]]:
    """Divide the forms into those to train with and those to certify with."""
    held = list(tried.forms[HELD_BACK - 1 :: HELD_BACK])

    return [form for form in tried.forms if form not in held], held

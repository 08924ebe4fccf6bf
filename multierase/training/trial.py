"""Which sentences about a concept a base understands, tried before anything is trained.

A sentence that a base does not understand teaches nothing, and a direction found with it is not the
concept's. So each form of a kind is tried: the base's own prediction has to move away from that of
the context by more than it does for names that are made up.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import torch

from multierase.errors import ConceptRefused
from multierase.files import digest_bytes
from multierase.models.model import Model
from multierase.prompts.kind import Kind
from multierase.prompts.wording import plain, significant_words, with_article
from multierase.training.trajectories import EvaluationCounter, in_parts, trajectories

logger = logging.getLogger(__name__)

FORMS = 10  # of a kind, the most usual first
MADE_UP = 3  # names of as many tokens as the concept's, of which one may mean something
UNDERSTOOD = 1.5  # times as far as a made-up name, and
BESIDE = 0.6  # of the best understood form's
CLEARLY = 1.6  # in no form: the name may mean nothing
DRAWN = 1.2  # less than this in every form: the base may not know the name
OVERRULED = 1.45  # as much in a second look: it does
OTHER_SEED = 10_007  # so much farther for the second look
FEWEST = 3  # forms, if so many are at all understood
SHARE = 0.35  # of the farthest understood form; less is a side effect
STEPS, GUIDANCE = 10, 3.0  # of the trajectories
PLACES = (2, 5)  # of their points, at which forms are tried
DOUBTED, MORE_MADE_UP = 4, 6  # forms that are tried again if none is clear, and the names then
CANDIDATES, SUBJECTS = 24, 8


@dataclass(frozen=True)
class Points:
    """Latents ``x_t`` ``(n, c, h, w)`` with their timesteps ``(n,)``."""

    x_t: torch.Tensor
    t: torch.Tensor

    def take(self, index: Sequence[int]) -> Points:
        """Return some of them, in this order."""
        return Points(self.x_t[list(index)], self.t[list(index)])


@dataclass(frozen=True)
class Tried:
    """What a base understands of a concept.

    Args:
        forms: templates of the kind that it understands, the farthest first.
        ratios: by template how far its sentence moves the prediction, in that of made-up names.
        subjects: what fills the sentences, the best understood first.
    """

    forms: tuple[str, ...]
    ratios: dict[str, float]
    subjects: tuple[str, ...]


class Trial:
    """Tries the sentences of one kind on one base; what concepts share is evaluated once.

    Args:
        model: the frozen base.
        kind: how people speak of the concepts; without sentences, only the points can be had.
        seed: of noise, subjects and made-up names.
    """

    def __init__(self, model: Model, kind: Kind, seed: int):
        self.model, self.kind, self.seed = model, kind, seed
        self.evaluations = EvaluationCounter()
        self._counted = 0
        self._sizes: dict[tuple[str, str], float] = {}
        self._predicted: dict[tuple[str, int], torch.Tensor] = {}

    def spent(self) -> int:
        """Return the evaluations since the last call: what concepts share is the first one's."""
        before, self._counted = self._counted, self.evaluations.forward

        return self._counted - before

    def of(self, name: str) -> Tried:
        """Try a concept's name in every form.

        Raises:
            ConceptRefused: if no form moves the base more than a made-up name does.
        """
        self.model.require_representable(name)
        forms = [form for form in list(self.kind.sentences)[:FORMS] if self._fits(form, name)]
        if not forms:
            raise ConceptRefused(
                f"no sentence of the kind {self.kind.name!r} about {name!r} is short enough for "
                "this base's tokenizer: give its --prompts",
                name,
            )
        moved = {form: self._moved(form, name) for form in forms}
        ratios, clearest = self._look(name, forms)
        if max(ratios.values()) < DRAWN:
            ratios = self._second_look(name, ratios)
        if clearest < CLEARLY:
            logger.warning(
                "this base hardly tells %r from a made-up name (%.1f times as far, at most): look "
                "at pictures before and after",
                name,
                clearest,
            )

        best = max(ratios.values())
        clear = max(min(UNDERSTOOD, best), BESIDE * best)
        least = sorted(ratios.values(), reverse=True)[:FEWEST][-1]
        clear = min(clear, max(least, DRAWN))
        known = [form for form in forms if ratios[form] >= clear]
        farthest = max(moved[form] for form in known)
        chosen = [form for form in known if moved[form] >= SHARE * farthest]
        chosen.sort(key=lambda form: -ratios[form])

        return Tried(tuple(chosen), ratios, self.subjects)

    def predict(self, prompts: Sequence[str], places: Sequence[int]) -> torch.Tensor:
        """Predict for each prompt at one of the points; each pair once."""
        asked = list(dict.fromkeys(zip(prompts, places, strict=True)))
        missing = [pair for pair in asked if pair not in self._predicted]
        if missing:
            texts, where = zip(*missing, strict=True)
            points = self.points.take(where)
            self.evaluations.forward += len(missing)
            with torch.no_grad():
                text = self.model.encode(texts)
                eps = in_parts(self.model.predict, points.x_t, points.t, text).float()
            self._predicted.update(zip(missing, eps, strict=True))

        return torch.stack([self._predicted[pair] for pair in zip(prompts, places, strict=True)])

    def _look(self, name: str, forms: Sequence[str]) -> tuple[dict[str, float], float]:
        """Return a name's ratio in each form, and the clearest one."""
        ratios = self._ratios(name, forms, MADE_UP)
        clearest = max(ratios.values())
        if clearest < UNDERSTOOD:
            doubted = sorted(forms, key=lambda form: -ratios[form])[:DOUBTED]
            again = self._ratios(name, doubted, MORE_MADE_UP)
            clearest = max(again.values())
            # Who is refused has to look made up twice: a weak base moves little for its own names.
            ratios |= {form: max(ratio, ratios[form]) for form, ratio in again.items()}

        return ratios, clearest

    def _second_look(self, name: str, ratios: dict[str, float]) -> dict[str, float]:
        """Try a name again at other points, with other subjects and beside other made-up names.

        By chance, these hide a name that a base draws (``benchmarks/trial_names.py``).

        Raises:
            ConceptRefused: if it is not clearly understood there.
        """
        other = self._other
        before = other.evaluations.forward
        again, _ = other._look(name, list(ratios))
        self.evaluations.forward += other.evaluations.forward - before
        if max(again.values()) < OVERRULED:
            raise ConceptRefused(
                f"this base does not draw {name!r}: in none of {len(ratios)} sentences does the "
                "name move its prediction more than a made-up one does (at most "
                f"{max(ratios.values()):.2f} times as far), so there is nothing to erase; check "
                f"the spelling and --kind ({self.kind.name!r} was taken), or give its --prompts if "
                "you know better",
                name,
            )

        return again

    @cached_property
    def _other(self) -> Trial:
        return Trial(self.model, self.kind, self.seed + OTHER_SEED)

    def _fits(self, form: str, name: str) -> bool:
        pairs = (self.kind.sentence(form, name, subject) for subject in self.subjects)

        return all(self.model.reads_whole(sentence) for sentence, _ in pairs)

    def _moved(self, form: str, name: str) -> float:
        """Return ``‖ε(sentence) − ε(context)‖``, in the root mean square over the points."""
        if (form, name) not in self._sizes:
            subjects = [subject for subject in self.subjects[:2] for _ in PLACES]
            pairs = [self.kind.sentence(form, name, subject) for subject in subjects]
            sentences, contexts = zip(*pairs, strict=True)
            # Each subject at points of its own trajectory.
            places = [*PLACES, *(STEPS + place for place in PLACES)]
            change = self.predict(sentences, places) - self.predict(contexts, places)
            self._sizes[form, name] = change.square().flatten(1).sum(1).mean().sqrt().item()

        return self._sizes[form, name]

    def _ratios(self, name: str, forms: Sequence[str], count: int) -> dict[str, float]:
        """Return how far a name moves each form, in that of so many made-up names."""
        others = self._made_up(max(self.model.own_token_count(name), 1), count)
        ratios = {}
        for form in forms:
            usual = median(self._moved(form, other) for other in others)
            ratios[form] = self._moved(form, name) / max(usual, 1e-12)

        return ratios

    def _made_up(self, tokens: int, count: int) -> list[str]:
        generator = random.Random(f"{self.seed}/{tokens}")

        return [self.model.name_of_tokens(tokens, generator, self._named) for _ in range(count)]

    @cached_property
    def _named(self) -> frozenset[str]:
        """The base's words that are part of the kind's own names.

        They move a base as the concept does: none of them is a subject, or of a made-up name.
        """
        names = frozenset().union(*map(significant_words, self.kind.beside))

        return frozenset(word for word in self.model.words() if plain(word) in names)

    @cached_property
    @torch.no_grad()
    def subjects(self) -> tuple[str, ...]:
        """The candidates that move the base's prediction most, the farthest first."""
        rng = random.Random(self.seed)
        words = [word for word in self.model.words() if self.model.reads_whole(word)]
        own = [subject for subject in self.kind.subjects if self.model.reads_whole(subject)]
        some = rng.sample(own, len(own))[:CANDIDATES]
        drawn = rng.sample(words, len(words))
        some += [word for word in drawn if word not in self._named][:CANDIDATES]
        # Of whole words, which the base has read more often than what is cut into pieces.
        candidates = sorted(dict.fromkeys(some), key=self._pieces)[:CANDIDATES]

        noise = self._noise(1).expand(len(candidates) + 1, -1, -1, -1)
        sampler = self.model.sampler(STEPS)
        t = sampler.timesteps[:1].to(self.model.device).expand(len(noise))
        texts = self.model.encode(["", *map(with_article, candidates)])
        null, *eps = in_parts(self.model.predict, sampler.start(noise), t, texts).float()
        self.evaluations.forward += len(noise)

        moved = [(eps_subject - null).norm().item() for eps_subject in eps]
        order = sorted(range(len(candidates)), key=lambda i: -moved[i])
        return tuple(candidates[i] for i in order[:SUBJECTS])

    @cached_property
    @torch.no_grad()
    def points(self) -> Points:
        """Every point of two trajectories of the best understood subjects, one after the other."""
        subjects = self.subjects[:2] if self.kind.sentences else ("", "")
        text = self.model.encode([with_article(subject) if subject else "" for subject in subjects])
        null = self.model.encode([""] * len(subjects))

        def predict(x_t, t, text):
            self.evaluations.forward += len(x_t)
            return self.model.predict(x_t, t, text)

        sampler, noise = self.model.sampler(STEPS), self._noise(len(subjects))
        found = trajectories(predict, sampler, self.model.guide, noise, text, null, GUIDANCE)
        points, times = zip(*((x_t, t) for x_t, t, *_ in found), strict=True)

        return Points(
            torch.stack(points, dim=1).flatten(0, 1), torch.stack(times, dim=1).flatten(0, 1)
        )

    def _pieces(self, text: str) -> int:
        """Return how many tokens a text has more than words."""
        return self.model.own_token_count(text) - len(text.split())

    def _noise(self, count: int) -> torch.Tensor:
        """Return ``(count, c, h, w)`` of standard normal noise."""
        digest = digest_bytes(f"{self.seed}/trial", length=14)
        generator = torch.Generator().manual_seed(int(digest, 16))
        noise = torch.randn(count, *self.model.latent_shape, generator=generator)

        return noise.to(self.model.device)

"""What a joint solve of a large set may be followed by: ideas that ``hundred.py`` sets beside it.

Each is a function from a composed set to the values of the weights that it changes. The package has
none of them: what they gave is in the documentation.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from multierase import Workspace
from multierase.evaluation.erasers import replaced
from multierase.training.defaults import kind_of
from multierase.training.trajectories import denoise_partway
from multierase.workspace import examined

Values = dict[str, torch.Tensor]
"""By parameter."""

STRONGER = 1.2  # times what was solved for
ROUNDS = 2  # of strengths by the certificate
DEGREE = 0.1  # that each concept's strength is to leave
LEAST, MOST = 0.3, 3.0  # strength of one
SENTENCES = 6  # of a concept's certificate
POOLED = 1.4  # times the change of the pooled stream, where it is alone

POOL = 480  # sentences to distil with: half about the erased, half about others
STEPS, BATCH, RATE = 200, 48, 1e-3
SAMPLER_STEPS, GUIDANCE = 10, 3.0
AT_ONCE = 60  # latents


@dataclass(frozen=True)
class Points:
    """Points of the base's own trajectories of some sentences.

    Args:
        prompts: of each point.
        x_t, t: where it is.
        target: what is to be predicted there.
        erased: so many are about erased concepts, and stand first.
    """

    prompts: Sequence[str]
    x_t: torch.Tensor
    t: torch.Tensor
    target: torch.Tensor
    erased: int


class Set:
    """A set of concepts that is composed, and what an idea asks of it.

    Args:
        quick: distil for two steps, to see that it runs.
    """

    def __init__(self, workspace: Workspace, concepts: Sequence[str], *, quick: bool = False):
        self.workspace, self.concepts = workspace, concepts
        self.pool, self.steps = (4, 2) if quick else (POOL, STEPS)
        self.model = workspace.model
        self.base = {name: own.detach().clone() for name, own in self.model.parameters().items()}

    def composed(self, strengths: Mapping[str, float] | None = None) -> Values:
        """Return the weights that are changed, as they are with these strengths; 1 by default."""
        with self.erasing(strengths or dict.fromkeys(self.concepts, 1.0)):
            now = self.model.parameters()
            return {
                name: now[name].detach().clone()
                for name, own in self.base.items()
                if not torch.equal(now[name], own)
            }

    @contextlib.contextmanager
    def erasing(self, strengths: Mapping[str, float]) -> Iterator[None]:
        """Erase the set with these strengths for a ``with`` block."""
        composer = self.workspace.composer
        composer.set(strengths)
        try:
            yield
        finally:
            composer.restore_all()

    def times(self, values: Values, scale: float) -> Values:
        """Return the same with so many times the change from the base."""
        return {
            name: self.base[name] + scale * (own - self.base[name]) for name, own in values.items()
        }

    def degrees(self, strengths: Mapping[str, float]) -> dict[str, float]:
        """Return the mean degree of each concept's unseen sentences while all are erased."""
        asked = self._examined  # of the base, so not while anything is erased
        with self.erasing(strengths):
            answers, _ = asked.answers(self.model.predict)

        return {name: statistics.mean(one.degree for one in own) for name, own in answers.items()}

    @cached_property
    def _examined(self):
        asked = self.workspace.library.questions()
        own = {
            name: [one for one in asked[name] if one["about"] == "own"][:SENTENCES]
            for name in self.concepts
        }

        return examined(self.model, own)

    @torch.no_grad()
    def points(self) -> Points:
        """Draw sentences about the erased and about the rest of the kind, and denoise them."""
        kind, chance = kind_of(self.model, "auto"), random.Random(0)
        assert kind is not None  # the base brings one
        others = [name for name in kind.beside if name not in self.concepts]
        prompts, contexts = [], []
        for names in (self.concepts, others):
            for name in itertools.islice(itertools.cycle(names), self.pool // 2):
                form, subject = chance.choice(list(kind.sentences)), chance.choice(kind.subjects)
                sentence, context = kind.sentence(form, name, subject)
                prompts.append(sentence)
                contexts.append(context if name in self.concepts else sentence)

        generator = torch.Generator().manual_seed(0)
        parts = []
        for first in range(0, self.pool, AT_ONCE):
            some = slice(first, first + AT_ONCE)
            x_t, t = self._denoised(prompts[some], generator)
            target = self.model.predict(x_t, t, self.model.encode(contexts[some]))
            parts.append((x_t, t, target))

        return Points(prompts, *map(torch.cat, zip(*parts, strict=True)), self.pool // 2)

    def _denoised(
        self, prompts: Sequence[str], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        model, sampler = self.model, self.model.sampler(SAMPLER_STEPS)
        text, null = model.encode(prompts), model.encode([""] * len(prompts))
        noise = torch.randn(len(prompts), *model.latent_shape, generator=generator)
        stops = torch.randint(0, SAMPLER_STEPS, (len(prompts),), generator=generator)

        return denoise_partway(
            model.predict, sampler, model.guide, noise, stops, text, null, GUIDANCE
        )


def stronger(composed: Set) -> Values:
    """Return the solution, ``STRONGER`` times as strong."""
    return composed.times(composed.composed(), STRONGER)


def by_certificate(composed: Set) -> Values:
    """Give each concept the strength that leaves it the same degree, as if none moved another."""
    strengths = dict.fromkeys(composed.concepts, 1.0)
    for _ in range(ROUNDS):
        for name, degree in composed.degrees(strengths).items():
            wanted = strengths[name] * (1 - DEGREE) / max(1 - degree, 1e-3)
            strengths[name] = min(max(wanted, LEAST), MOST)

    return composed.composed(strengths)


def pooled_alone(composed: Set) -> Values:
    """Change nothing but what reads the pooled vectors, ``POOLED`` times as much."""
    values = composed.composed()
    reading = composed.workspace.library[composed.concepts[0]].readers
    pooled = {name: own for name, own in values.items() if reading[name] == "pooled"}

    return composed.times(pooled, POOLED)


def distilled(composed: Set) -> Values:
    """Train the solution on the base's predictions, without the erased concept in its sentences."""
    points, values = composed.points(), composed.composed()
    chance, half = random.Random(1), points.erased
    parameters = composed.model.parameters()
    with replaced(parameters, values):
        trained = [parameters[name].requires_grad_() for name in values]
        optimizer = torch.optim.Adam(trained, lr=RATE)
        slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, composed.steps)
        try:
            for _ in range(composed.steps):
                chosen = chance.choices(range(half), k=BATCH // 2)
                chosen += chance.choices(range(half, len(points.prompts)), k=BATCH // 2)
                text = composed.model.encode([points.prompts[place] for place in chosen])
                said = composed.model.predict(points.x_t[chosen], points.t[chosen], text)
                optimizer.zero_grad()
                (said - points.target[chosen]).square().mean().backward()
                optimizer.step()
                slower.step()
        finally:
            for own in trained:
                own.requires_grad_(False)
        return {name: parameters[name].detach().clone() for name in values}


IDEAS: Mapping[str, Callable[[Set], Values]] = {
    "1.2 times": stronger,
    "by certificate": by_certificate,
    "pooled alone": pooled_alone,
    "distilled": distilled,
}


class Refined:
    """Erases concepts by the joint solve and one of these ideas after it."""

    def __init__(self, workspace: Workspace, idea: str, *, quick: bool = False):
        self.workspace, self.idea, self.quick = workspace, IDEAS[idea], quick

    @contextlib.contextmanager
    def erasing(self, *concepts: str) -> Iterator[None]:
        """Erase concepts for a ``with`` block."""
        values = self.idea(Set(self.workspace, concepts, quick=self.quick))
        with replaced(self.workspace.model.parameters(), values):
            yield

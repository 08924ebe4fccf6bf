"""The contract of an attack: a model that is attacked, and the attempts that are made on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from multierase.evaluation.attacks import Budget
from multierase.evaluation.cases import Case
from multierase.files import digest_bytes
from multierase.models.conditioning import Conditioning
from multierase.models.latents import noised, told_guidance, unasked
from multierase.models.model import Model, Weights
from multierase.sampling import SamplingSettings

# What connects a name with the rest of a sentence, and goes with it.
CONNECTING = re.compile(
    r"(?:\s*,|(?:\s+|^)(?:by|of|from|with|and|near|beside|next to|an?|the|in the style of|"
    r"(?:as )?drawn by|in))\s*$",
    re.I,
)
FOLLOWING = r"(?:['’]s\b)?(?:\s+style\b)?"


@dataclass(frozen=True)
class Attempt:
    """One way to ask for a picture.

    Args:
        conditioning: what the model is asked, of one prompt.
        prompt: the same in words, as far as there are words for it.
        weights: that take the place of the model's own.
        latents: ``(1, c, h, w)`` from which the picture goes on, in place of noise.
        start: the step from which it goes on.
        ids: the tokens between begin and end, where the conditioning is made of tokens.
        vector: ``(d,)``, the one token that no vocabulary has, if there is one.
    """

    conditioning: Conditioning
    prompt: str
    weights: Weights | None = None
    latents: torch.Tensor | None = None
    start: int = 0
    ids: Sequence[int] = ()
    vector: torch.Tensor | None = None


@dataclass
class Target:
    """A model with concepts erased, which is attacked, and the base that the attacker knows.

    Args:
        model: as it is composed now.
        base: the base's values of the parameters that are changed now.
        sampling: how pictures are made.

    Attributes:
        evaluations: of the denoiser on one latent so far; a backward pass counts as another one.
    """

    model: Model
    base: Weights
    sampling: SamplingSettings
    evaluations: int = 0
    _latents: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)

    def predict(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        weights: Weights | None = None,
    ) -> torch.Tensor:
        """Do as ``Model.predict`` does, and count."""
        self.evaluations += len(x_t) * (2 if torch.is_grad_enabled() else 1)

        return self.model.predict(x_t, t, conditioning, weights)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, and remember nothing: an erasure may have changed the text tower."""
        return self.model.text.fresh(prompts).to(self.model.device)

    @property
    def guided(self) -> bool:
        """Whether pictures are made with two evaluations a step."""
        return self.model.guided and self.sampling.guidance_scale > 1

    @torch.no_grad()
    def draw(
        self,
        conditioning: Conditioning,
        seeds: Sequence[int],
        weights: Weights | None = None,
        latents: torch.Tensor | None = None,
        start: int = 0,
    ) -> torch.Tensor:
        """Return ``(b, c, h, w)`` latents of pictures, by the model's own deterministic sampler.

        Where that is the pipeline's scheduler too, they are those of the pipeline's pictures.

        Args:
            conditioning: of ``b`` prompts.
            seeds: of their noise, ``b``.
            weights: that take the place of the model's own.
            latents: from which to go on at step ``start``, in place of noise.
        """
        model, scale = self.model, self.sampling.guidance_scale
        sampler = model.sampler(self.sampling.inference_steps)
        x_t = sampler.start(self.noise(seeds)) if latents is None else latents
        both = conditioning
        if self.guided:
            both = Conditioning.cat([unasked(model).repeat(len(x_t)), conditioning])

        with told_guidance(model, scale):
            for index in range(start, len(sampler.timesteps)):
                t = sampler.timesteps[index].expand(len(both))
                twice = x_t.repeat(len(both) // len(x_t), 1, 1, 1)
                prediction = self.predict(twice, t, both, weights)
                if self.guided:
                    null, asked = prediction.chunk(2)
                    prediction = model.guide(asked, null, scale)
                x_t = sampler.step(prediction, index, x_t)

        return x_t

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Return ``(b, c, h, w)`` standard normal noise, each of its own seed."""
        model, rows = self.model, []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.randn(model.latent_shape, generator=generator))

        return torch.stack(rows).to(model.device, model.dtype)

    def of_base(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Return ``(b, c, h, w)`` latents of the base's own pictures; each is made once.

        One that is there already is counted again: an attack costs the same whatever came before.
        """
        wanted = list(zip(prompts, seeds, strict=True))
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in self._latents]
        spared = len(dict.fromkeys(wanted)) - len(missing)
        self.evaluations += spared * self.sampling.inference_steps * (2 if self.guided else 1)
        batch = self.sampling.batch_size
        for first in range(0, len(missing), batch):
            part = missing[first : first + batch]
            texts, numbers = zip(*part, strict=True)
            made = self.draw(self.encode(texts), numbers, self.base)
            self._latents.update(zip(part, made, strict=True))

        return torch.stack([self._latents[pair] for pair in wanted])

    def noised(
        self, x_0: torch.Tensor, t: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise latents up to time ``t``; return them, and what should be predicted there."""
        noise = torch.randn(x_0.shape, generator=generator).to(x_0)

        return noised(self.model, x_0, noise, t.to(x_0.device))

    def examples(
        self, pictures: torch.Tensor, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw a batch to learn from: ``count`` of ``(n, c, h, w)`` pictures, at random times.

        Returns:
            Which pictures they are and their times, ``(count,)``; as latents at these times, and
            what should be predicted there.
        """
        chosen = torch.randint(len(pictures), [count], generator=generator)
        t = torch.randint(self.times, [count], generator=generator)
        chosen = chosen.to(pictures.device)
        x_t, goal = self.noised(pictures[chosen], t, generator)

        return chosen, t.to(x_t.device), x_t, goal

    @property
    def times(self) -> int:
        """The number of times of the model's schedule."""
        return self.model.pipeline.scheduler.config.num_train_timesteps


@dataclass(frozen=True)
class Aim:
    """What an attack is after.

    Args:
        concept: the erased one.
        cases: that ask for it: the attacker's sentences.
        asked: by case number what the attack begins with; the case's prompt, or on a model that
            draws the concept the same without its name.
        budget: see ``Budget``.
        seed: of everything that is drawn.
        cache: folder for what does not depend on the erasure; ``None`` keeps nothing.
    """

    concept: str
    cases: Sequence[Case]
    asked: Mapping[int, str]
    budget: Budget
    seed: int
    cache: Path | None = None

    def generator(self, *of: object) -> torch.Generator:
        """Return a generator for one use, the same whatever else was drawn before."""
        key = digest_bytes(repr((self.seed, self.concept, *of)).encode(), length=15)

        return torch.Generator().manual_seed(int(key, 16))

    def pictures(self, target: Target) -> tuple[torch.Tensor, list[Case]]:
        """Return ``(n, c, h, w)`` latents of as many pictures as the attacker has, and their cases.

        They are the base's own, of the cases' prompts at seeds that no case has.
        """
        shown = [self.cases[i % len(self.cases)] for i in range(self.budget.pictures)]
        taken = max(case.seed for case in self.cases) + 1
        seeds = [taken + number for number in range(len(shown))]

        return target.of_base([case.prompt for case in shown], seeds), shown


class Running(Protocol):
    """An attack on one concept that has begun."""

    def __call__(self, case: Case) -> Iterator[Attempt]:
        """Yield the attempts on one case; whoever asks stops at the first success."""


class Begin(Protocol):
    """Begins an attack on one concept of a target, and does what serves all of its cases.

    Raises:
        UsageError: for a family that the attack does not fit, before anything is computed.
    """

    def __call__(self, target: Target, aim: Aim) -> Running: ...


def without(prompt: str, name: str) -> str:
    """Return a prompt without a concept's name: ``"a church"`` of ``"a church by Noto"``.

    What connects the name with the rest goes with it. A prompt without the name stays as it is.
    """
    sought = re.compile(rf"(?<!\w){re.escape(name)}(?!\w){FOLLOWING}", re.I)
    left = prompt
    while found := sought.search(left):
        before, after = left[: found.start()], left[found.end() :]
        while CONNECTING.search(before):
            before = CONNECTING.sub("", before)
        left = f"{before} {after}"

    if left == prompt:
        return prompt
    # No space where the name stood before a comma.
    left = re.sub(r"\s+([,.;:])", r"\1", " ".join(left.split())).strip(" ,.;:")
    return re.sub(r"^and\s+", "", left, flags=re.I)

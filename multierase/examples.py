"""What a student learns from: partially denoised latents with the frozen base's predictions for them, by schedule."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch

from multierase.base import Base
from multierase.concepts import Concept
from multierase.erase_settings import EraseSettings
from multierase.objectives import esd_target
from multierase.trajectories import Batch, EvaluationCounter, denoise_partway, trajectories


class Examples:
    """The batches of one erasure. Every one is a function of seed and step alone, but for the student schedule's, which
    is sampled under the student's weights; so a resumed erasure and an uninterrupted one learn from the same.

    Args:
        base: the frozen model.
        concept: with its prompts and their contexts.
        settings: schedule, numbers, seed.
        kept: prompts of which each example has one, with the base's prediction; may be empty.
        evaluations: what it costs is counted there.
    """

    def __init__(
        self,
        base: Base,
        concept: Concept,
        settings: EraseSettings,
        kept: Sequence[str],
        evaluations: EvaluationCounter,
    ):
        self.base, self.concept, self.settings, self.kept = base, concept, settings, kept
        self.evaluations = evaluations
        self.scheduler = base.sampler(settings.sampler_steps)
        self._pool: Batch | None = None

    def batches(self, steps: range, weights: Mapping[str, torch.Tensor]) -> list[Batch]:
        """The examples of ``steps``, sampled together; the student schedule's under ``weights``."""
        if self.settings.schedule == "pooled":
            return [self.pool[self._drawn(step)] for step in steps]
        return self._sampled(steps, weights if self.settings.schedule == "student" else None)

    @property
    def pool(self) -> Batch:
        """Every point of the pooled schedule's trajectories. Made again, and not counted again, after a resume."""
        if self._pool is None:
            spent = self.evaluations.forward
            self._pool = self._sample_pool()
            if self.evaluations.trained:
                self.evaluations.forward = spent
        return self._pool

    @torch.no_grad()
    def _sample_pool(self) -> Batch:
        """Trajectories of as many prompts as there are, guided away from each prompt's context, which stands for the
        empty prompt: so the two predictions that guide are the two that the target is made of."""
        settings, generator = self.settings, self._generator("pool")
        order = torch.randperm(len(self.concept.prompts), generator=generator)
        choices = order.repeat(-(-settings.trajectories // len(order)))[: settings.trajectories]
        noise = torch.randn(settings.trajectories, *self.base.latent_shape, generator=generator)
        points = []
        for some in torch.arange(settings.trajectories).split(settings.sampling_batch):
            text, null = self._texts(choices[some])
            start = noise[some].to(self.base.device)
            for x_t, t, *eps in trajectories(self._predict, self.scheduler, start, text, null, settings.guidance_scale):
                kept = torch.randint(max(len(self.kept), 1), (len(some),), generator=generator)
                points.append(self._batch(x_t, t, choices[some], kept, *eps))
        return Batch.cat(points)

    def _drawn(self, step: int) -> torch.Tensor:
        """A step's examples of the pool: it is gone through in one random order after another."""
        size = self.settings.trajectories * self.settings.sampler_steps
        places = torch.arange(step * self.settings.batch_size, (step + 1) * self.settings.batch_size)
        orders = {
            round_: torch.randperm(size, generator=self._generator(f"round {round_}"))
            for round_ in {int(place) // size for place in places}
        }
        return torch.stack([orders[int(place) // size][int(place) % size] for place in places])

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A step's noise, stops, and choices of prompts to erase and to keep, where each latent has its own."""
        settings, generator = self.settings, self._generator(step)
        noise = torch.randn(settings.batch_size, *self.base.latent_shape, generator=generator)
        stops = torch.randint(settings.sampler_steps, (settings.batch_size,), generator=generator)
        prompts = torch.randint(len(self.concept.prompts), (settings.batch_size,), generator=generator)
        kept = torch.randint(max(len(self.kept), 1), (settings.batch_size,), generator=generator)
        return noise.to(self.base.device), stops, prompts, kept

    @torch.no_grad()
    def _sampled(self, steps: range, weights: Mapping[str, torch.Tensor] | None) -> list[Batch]:
        draws = [self.draw(step) for step in steps]
        noise, stops, choices, kept_choices = (torch.cat(part) for part in zip(*draws, strict=True))
        text, context = self._texts(choices)
        null = self.base.text([""] * len(choices))

        def predict(x_t, t, text):
            return self._predict(x_t, t, text, weights)

        x_t, t = denoise_partway(predict, self.scheduler, noise, stops, text, null, self.settings.guidance_scale)
        eps = self._predict(x_t, t, text), self._predict(x_t, t, context)
        whole = self._batch(x_t, t, choices, kept_choices, *eps)
        size = self.settings.batch_size
        return [whole[start : start + size] for start in range(0, len(x_t), size)]

    def _batch(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        choices: torch.Tensor,
        kept_choices: torch.Tensor,
        eps_concept: torch.Tensor,
        eps_null: torch.Tensor,
    ) -> Batch:
        """With what else the base has to be asked: the anchor, and what is kept."""
        text, context = self._texts(choices)
        anchor, erase_from = self.concept.target_prompt, self.concept.erase_from
        eps_anchor = self._predict(x_t, t, self.base.text([anchor] * len(x_t))) if anchor else eps_null
        target = esd_target(eps_anchor, eps_concept, eps_null, self.settings.eta)
        prompted = text if erase_from is None else self.base.text([erase_from] * len(x_t))
        kept = self.base.text([self.kept[i] for i in kept_choices.tolist()]) if self.kept else text[:0]
        eps_kept = self._predict(x_t, t, kept) if self.kept else eps_null[:0]
        return Batch(x_t, t, prompted, context, target, eps_concept, eps_null, kept, eps_kept)

    def _texts(self, choices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        prompts, contexts = (
            [listed[i] for i in choices.tolist()] for listed in (self.concept.prompts, self.concept.contexts)
        )
        return self.base.text(prompts), self.base.text(contexts)

    def _predict(
        self, x_t: torch.Tensor, t: torch.Tensor, text: torch.Tensor, weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        self.evaluations.forward += len(x_t)
        return self.base.predict_noise(x_t, t, text, weights)

    def _generator(self, what: object) -> torch.Generator:
        seed = hashlib.sha256(f"{self.settings.seed}/{what}".encode()).digest()[:7]
        return torch.Generator().manual_seed(int.from_bytes(seed, "big"))

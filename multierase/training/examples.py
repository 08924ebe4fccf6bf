"""What an erasure learns from: noisy latents with the frozen base's predictions for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multierase.files import digest_bytes
from multierase.models.conditioning import Conditioning
from multierase.models.model import Model, Weights
from multierase.training.objectives import esd_target
from multierase.training.plan import Plan
from multierase.training.trajectories import (
    Batch,
    EvaluationCounter,
    denoise_partway,
    trajectories,
)


class Examples:
    """The batches of one erasure.

    Each is a function of seed and step alone, except the student schedule's, which is sampled with
    the student's weights. So a resumed erasure and an uninterrupted one learn from the same.

    Args:
        model: the frozen base.
        plan: what is asked.
        evaluations: where the cost is counted.
    """

    def __init__(self, model: Model, plan: Plan, evaluations: EvaluationCounter):
        self.model, self.plan, self.evaluations = model, plan, evaluations
        self.settings, self.concept, self.kept = plan.settings, plan.concept, plan.kept
        self.sampler = model.sampler(plan.settings.sampler_steps)
        self._pool: Batch | None = None

    def batches(self, steps: range, weights: Weights) -> list[Batch]:
        """Return the examples of ``steps``, sampled together.

        Args:
            weights: the student's, with which the student schedule samples.
        """
        if self.settings.schedule == "pooled":
            return [self.pool.take(self._drawn(step)) for step in steps]

        return self._sampled(steps, weights if self.settings.schedule == "student" else None)

    @property
    def pool(self) -> Batch:
        """Every point of the pooled schedule's trajectories.

        It is made again, and not counted again, after a resume.
        """
        if self._pool is None:
            spent = self.evaluations.forward
            self._pool = self._sample_pool()
            if self.evaluations.trained:
                self.evaluations.forward = spent

        return self._pool

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw a step's noise, stops, prompts to erase and prompts to keep.

        For the schedules in which each latent has a trajectory of its own.
        """
        settings, generator = self.settings, self._generator(step)
        size = (settings.batch_size,)
        noise = torch.randn(*size, *self.model.latent_shape, generator=generator)
        stops = torch.randint(settings.sampler_steps, size, generator=generator)
        prompts = torch.randint(len(self.concept.prompts), size, generator=generator)
        kept = torch.randint(max(len(self.kept), 1), size, generator=generator)

        return noise.to(self.model.device), stops, prompts, kept

    @torch.no_grad()
    def _sample_pool(self) -> Batch:
        """Sample whole trajectories, spread over all prompts, and ask for others at their points.

        They are guided away from each prompt's context, which stands for the empty prompt. So
        guidance and target use the same two predictions. What is learned from few prompts does not
        carry over to others, so the other prompts are new ones at every point.
        """
        settings, generator = self.settings, self._generator("pool")
        order = torch.randperm(len(self.concept.prompts), generator=generator)
        rounds = -(-settings.trajectories * (1 + self._others) // len(order))
        choices, *others = order.repeat(rounds).split(settings.trajectories)
        shape = settings.trajectories, *self.model.latent_shape
        noise = torch.randn(*shape, generator=generator)

        points = []
        for some in torch.arange(settings.trajectories).split(settings.sampling_batch):
            text, null = self._texts(choices[some])
            start = noise[some].to(self.model.device)
            found = trajectories(
                self._predict,
                self.sampler,
                self.model.guide,
                start,
                text,
                null,
                settings.guidance_scale,
            )
            for place, (x_t, t, *eps) in enumerate(found):
                points.append(self._batch(x_t, t, choices[some], self._kept(some, generator), *eps))
                for asked in others[place : self._others : settings.sampler_steps]:
                    eps = [self._predict(x_t, t, texts) for texts in self._texts(asked[some])]
                    kept = self._kept(some, generator)
                    points.append(self._batch(x_t, t, asked[some], kept, *eps))

        return Batch.cat(points)

    @property
    def _others(self) -> int:
        """The prompts that a trajectory's points are asked for beside its own.

        A point is not asked for one prompt twice: a name alone has no others.
        """
        settings = self.settings
        each = min(settings.prompts_per_point, len(self.concept.prompts)) - 1

        return each * settings.sampler_steps

    def _kept(self, some: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(max(len(self.kept), 1), (len(some),), generator=generator)

    def _drawn(self, step: int) -> torch.Tensor:
        """Return a step's places in the pool: drawn without replacement, shuffled each epoch."""
        size = len(self.pool)
        first = step * self.settings.batch_size
        places = range(first, first + self.settings.batch_size)

        orders = {}
        for epoch in sorted({place // size for place in places}):
            orders[epoch] = torch.randperm(size, generator=self._generator(f"round {epoch}"))

        return torch.stack([orders[place // size][place % size] for place in places])

    @torch.no_grad()
    def _sampled(self, steps: range, weights: Weights | None) -> list[Batch]:
        """Sample each latent's own trajectory up to a random step."""
        draws = [self.draw(step) for step in steps]
        noise, stops, choices, kept = (torch.cat(part) for part in zip(*draws, strict=True))
        text, context = self._texts(choices)
        null = self.model.encode([""] * len(choices))

        def predict(x_t, t, text):
            return self._predict(x_t, t, text, weights)

        scale = self.settings.guidance_scale
        x_t, t = denoise_partway(
            predict, self.sampler, self.model.guide, noise, stops, text, null, scale
        )
        eps = self._predict(x_t, t, text), self._predict(x_t, t, context)
        whole = self._batch(x_t, t, choices, kept, *eps)

        size = self.settings.batch_size
        return [whole.take(slice(start, start + size)) for start in range(0, len(whole), size)]

    def _batch(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        choices: torch.Tensor,
        kept_choices: torch.Tensor,
        eps_concept: torch.Tensor,
        eps_null: torch.Tensor,
    ) -> Batch:
        """Add the base's predictions for the anchor and for the prompts to keep."""
        text, context = self._texts(choices)
        anchor, erase_from = self.concept.target_prompt, self.concept.erase_from
        eps_anchor = self._predict(x_t, t, self._same(anchor, x_t)) if anchor else eps_null
        target = esd_target(eps_anchor, eps_concept, eps_null, self.plan.eta)
        prompted = text if erase_from is None else self._same(erase_from, x_t)

        kept, eps_kept = text.take(slice(0, 0)), eps_null[:0]
        if self.kept:
            kept = self.model.encode([self.kept[i] for i in kept_choices.tolist()])
            eps_kept = self._predict(x_t, t, kept)

        return Batch(x_t, t, prompted, context, target, eps_concept, eps_null, kept, eps_kept)

    def _texts(self, choices: torch.Tensor) -> tuple[Conditioning, Conditioning]:
        """Encode the chosen prompts, and their contexts."""
        chosen = choices.tolist()

        return self._encoded(self.concept.prompts, chosen), self._encoded(
            self.concept.contexts, chosen
        )

    def _encoded(self, listed: Sequence[str], chosen: Sequence[int]) -> Conditioning:
        return self.model.encode([listed[i] for i in chosen])

    def _same(self, prompt: str, x_t: torch.Tensor) -> Conditioning:
        return self.model.encode([prompt] * len(x_t))

    def _predict(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        weights: Weights | None = None,
    ) -> torch.Tensor:
        self.evaluations.forward += len(x_t)

        return self.model.predict(x_t, t, conditioning, weights)

    def _generator(self, what: object) -> torch.Generator:
        digest = digest_bytes(f"{self.settings.seed}/{what}", length=14)

        return torch.Generator().manual_seed(int(digest, 16))

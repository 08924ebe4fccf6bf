"""Partially denoised latents ``x_t``, made by guided sampling with whichever model is asked; batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from diffusers import DDIMScheduler

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class EvaluationCounter:
    """U-Net evaluations on one latent: those of the frozen base and of sampling count one each, a training step on the
    student counts what its forward and backward cost in floating-point operations beside a forward, measured."""

    forward: int = 0
    trained: int = 0
    step_cost: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.trained * self.step_cost


@dataclass
class Batch:
    """One student step's examples.

    ``x_t`` ``(b, c, h, w)``, ``t`` ``(b,)``, ``text`` ``(b, l, d)`` for the student, and the frozen base's predictions
    for them; ``null`` and ``eps_null`` are of the prompt's context. ``kept`` are embeddings of as many prompts to
    keep, ``eps_kept`` the base's predictions for them on the same latents; empty where none are.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    text: torch.Tensor
    null: torch.Tensor
    target: torch.Tensor
    eps_concept: torch.Tensor
    eps_null: torch.Tensor
    kept: torch.Tensor
    eps_kept: torch.Tensor

    def __getitem__(self, index: torch.Tensor | slice) -> Batch:
        """Some of the examples."""
        return Batch(*(part[index] if len(part) else part for part in self._parts()))

    @classmethod
    def cat(cls, batches: Sequence[Batch]) -> Batch:
        return cls(*(torch.cat(parts) for parts in zip(*(batch._parts() for batch in batches), strict=True)))

    def _parts(self) -> list[torch.Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


def both(
    predict: Predict, x_t: torch.Tensor, t: torch.Tensor, text: torch.Tensor, null: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both predictions of classifier-free guidance, in one batch of ``2b``."""
    eps_concept, eps_null = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([text, null])).chunk(2)
    return eps_concept, eps_null


def guided(eps_concept: torch.Tensor, eps_null: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance ``ε(∅) + scale (ε(c) − ε(∅))``."""
    return eps_null + scale * (eps_concept - eps_null)


@torch.no_grad()
def trajectories(
    predict: Predict,
    scheduler: DDIMScheduler,
    noise: torch.Tensor,
    text: torch.Tensor,
    null: torch.Tensor,
    guidance_scale: float,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Whole guided trajectories, point by point, with the two predictions that lead on from each.

    Arguments are those of ``denoise_partway``. Yields ``x_t`` ``(b, c, h, w)``, ``t`` ``(b,)``, ``ε(x_t, text)`` and
    ``ε(x_t, null)``: ``2 b`` evaluations a point, of which none is spent for the latent alone.
    """
    x_t = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        t = timestep.to(x_t.device).expand(len(x_t))
        eps_concept, eps_null = both(predict, x_t, t, text, null)
        yield x_t, t, eps_concept, eps_null
        eps = guided(eps_concept, eps_null, guidance_scale)
        x_t = scheduler.step(eps, timestep, x_t, return_dict=False)[0]


@torch.no_grad()
def denoise_partway(
    predict: Predict,
    scheduler: DDIMScheduler,
    noise: torch.Tensor,
    stops: torch.Tensor,
    text: torch.Tensor,
    null: torch.Tensor,
    guidance_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoise each latent of a batch for its own number of steps.

    Args:
        predict: ``(x_t, t, text) -> ε``.
        scheduler: with its timesteps set.
        noise: ``(b, c, h, w)`` standard normal.
        stops: ``(b,)`` numbers of steps taken, from 0 to one less than the scheduler's; on the CPU.
        text, null: ``(b, l, d)`` embeddings of the prompt and of the empty prompt.
        guidance_scale: of the sampling.

    Returns:
        ``x_t`` ``(b, c, h, w)`` and ``t`` ``(b,)``: the next timestep of the schedule, where ``x_t`` is due.
    """
    x_t = noise * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps.cpu()
    for step in range(int(stops.max())):
        going = (stops > step).nonzero().squeeze(1).to(x_t.device)
        t = timesteps[step].to(x_t.device).expand(len(going))
        eps = guided(*both(predict, x_t[going], t, text[going], null[going]), guidance_scale)
        x_t[going] = scheduler.step(eps, timesteps[step], x_t[going], return_dict=False)[0]
    return x_t, timesteps[stops].to(x_t.device)

"""Partially denoised latents ``x_t``, made by guided sampling with whichever model is asked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def guided(predict: Predict, x_t: torch.Tensor, t: torch.Tensor, text: torch.Tensor, null: torch.Tensor, scale: float):
    """Classifier-free guidance ``ε(∅) + scale (ε(c) − ε(∅))``: both predictions in one batch of ``2b``."""
    both = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([text, null]))
    eps_concept, eps_null = both.chunk(2)
    return eps_null + scale * (eps_concept - eps_null)


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
        eps = guided(predict, x_t[going], t, text[going], null[going], guidance_scale)
        x_t[going] = scheduler.step(eps, timesteps[step], x_t[going], return_dict=False)[0]
    return x_t, timesteps[stops].to(x_t.device)

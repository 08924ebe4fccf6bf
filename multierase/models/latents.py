"""Latents between noise and picture: noised on the model's own schedule, and decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from multierase.errors import UsageError
from multierase.models.conditioning import Conditioning
from multierase.models.model import Model

SCALED = ("stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3", "flux")
"""The families whose latents are the autoencoder's, scaled and shifted by two numbers."""


def require_scaled(model: Model) -> None:
    """Raise ``UsageError`` for a family whose latents are more than scaled and shifted."""
    if model.family not in SCALED:
        raise UsageError(
            f"{model.name} is of the family {model.family!r}, whose latents cannot be decoded one "
            f"by one here: this fits {', '.join(SCALED)}"
        )


def unasked(model: Model) -> Conditioning:
    """Return what the model's pipeline asks beside a prompt in its guidance, as a batch of one.

    It need not be the empty prompt as a prompt: Stable Diffusion XL has zeros in its place.
    """
    inputs = model.pipeline_inputs([""], guided=True)
    streams = {"tokens": inputs["negative_prompt_embeds"]}
    if "negative_pooled_prompt_embeds" in inputs:
        streams["pooled"] = inputs["negative_pooled_prompt_embeds"]

    return Conditioning(streams).to(model.device)


@contextlib.contextmanager
def told_guidance(model: Model, scale: float) -> Iterator[None]:
    """Tell a denoiser that has the guidance scale as an input this one, for a block.

    Such a model predicts with a scale of 1, and its pipeline makes pictures with one of its own.
    Other models stay as they are.
    """

    def instead(denoiser: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("guidance") is None:
            return None
        return args, {**kwargs, "guidance": torch.full_like(kwargs["guidance"], scale)}

    (denoiser,) = model.components.values()
    hook = denoiser.register_forward_pre_hook(instead, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def decode(model: Model, latents: torch.Tensor) -> torch.Tensor:
    """Decode ``(b, c, h, w)`` latents into ``(b, 3, H, W)`` pictures in [0, 1], on the CPU."""
    require_scaled(model)
    vae = model.pipeline.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + shift
    pictures = vae.decode(scaled, return_dict=False)[0]

    return (pictures.float() / 2 + 0.5).clamp(0, 1).cpu()


def noised(
    model: Model, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents at time ``t`` of the model's schedule, and what ``predict`` should say there.

    Epsilon: ``x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε``, and ``ε``. Flow: ``x_t = (1 − σ) x_0 + σ ε`` with
    ``σ = t / T``, and ``ε − x_0``.

    Args:
        x_0, noise: ``(b, c, h, w)``.
        t: ``(b,)`` of the schedule's ``T`` steps, 0 to ``T − 1``.
    """
    config = model.pipeline.scheduler.config
    if model.parametrisation == "flow":
        sigma = (t.to(x_0.dtype) / config.num_train_timesteps).view(-1, 1, 1, 1)
        return (1 - sigma) * x_0 + sigma * noise, noise - x_0

    signal = model.pipeline.scheduler.alphas_cumprod.to(x_0)[t.long()].view(-1, 1, 1, 1)
    return signal.sqrt() * x_0 + (1 - signal).sqrt() * noise, noise

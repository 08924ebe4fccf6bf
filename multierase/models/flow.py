"""What rectified-flow transformers have in common: a velocity, sampled by Euler steps."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from multierase.models.conditioning import Conditioning
from multierase.models.model import Model, Sampler
from multierase.models.unet import require_steps


class FlowModel(Model):
    """A model that predicts the velocity from picture to noise: ``x_t = (1 − σ) x_0 + σ ε``."""

    parametrisation = "flow"
    patch = 2

    def sampler(self, steps: int) -> Sampler:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.pipeline.scheduler.config)
        require_steps(steps, scheduler.config.num_train_timesteps)
        shift = {}
        if scheduler.config.use_dynamic_shifting:
            shift["mu"] = self._shift(scheduler.config, steps)
        scheduler.set_timesteps(steps, device=self.device, sigmas=self._sigmas(steps), **shift)

        return Euler(scheduler)

    def _text_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return {
            "encoder_hidden_states": conditioning["tokens"],
            "pooled_projections": conditioning["pooled"],
        }

    @property
    def _image_tokens(self) -> int:
        """How many tokens of a picture the transformer reads, two by two latents each."""
        _, height, width = self.latent_shape

        return (height // self.patch) * (width // self.patch)

    def _shift(self, config: Any, steps: int) -> float:
        """Return how far the scheduler of this configuration moves towards noise: ``mu``."""
        return calculate_shift(
            self._image_tokens,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )

    def _sigmas(self, steps: int) -> list[float] | None:
        """Return what the pipeline asks its scheduler for; ``None`` for the scheduler's own."""
        return None


class Euler:
    """Euler steps along the flow, from ``σ = 1`` to 0: one evaluation a step."""

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler):
        self.timesteps, self._sigmas = scheduler.timesteps, scheduler.sigmas

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        return noise

    def step(self, prediction: torch.Tensor, index: int, x_t: torch.Tensor) -> torch.Tensor:
        length = self._sigmas[index + 1] - self._sigmas[index]
        # In float32, as diffusers does: late steps are small.
        return (x_t.float() + length * prediction).to(prediction.dtype)

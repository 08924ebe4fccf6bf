"""What Stable Diffusion's U-Nets have in common: epsilon or v-prediction, sampled by DDIM."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler

from multierase.models.conditioning import Conditioning
from multierase.models.model import Model, Sampler


class UNetModel(Model):
    """A model whose denoiser is a U-Net with cross-attention."""

    parametrisation = "epsilon"

    def sampler(self, steps: int) -> Sampler:
        # Of the noise, whatever the checkpoint predicts: steps are given what `predict` returns.
        config = self.pipeline.scheduler.config
        changed = {"prediction_type": self.parametrisation}
        if config.get("rescale_betas_zero_snr"):
            # The last timestep has no signal, so its noise says nothing of the picture: left out.
            changed["timestep_spacing"] = "leading"
        scheduler = DDIMScheduler.from_config(config, **changed)
        require_steps(steps, scheduler.config.num_train_timesteps)
        scheduler.set_timesteps(steps, device=self.device)

        return DDIM(scheduler)

    def _arguments(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> dict[str, Any]:
        return {"sample": x_t, "timestep": t, **self._text_arguments(conditioning)}

    def _prediction(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Turn a prediction of ``v`` into one of the noise: ``ε = √ᾱ v + √(1 − ᾱ) x_t``."""
        scheduler = self.pipeline.scheduler
        if scheduler.config.prediction_type != "v_prediction":
            return output

        signal = scheduler.alphas_cumprod.to(output.device)[t.long()].view(-1, 1, 1, 1)
        return signal.sqrt().to(output.dtype) * output + (1 - signal).sqrt().to(output.dtype) * x_t


class DDIM:
    """DDIM without noise: one evaluation a step."""

    def __init__(self, scheduler: DDIMScheduler):
        self._scheduler = scheduler
        self.timesteps = scheduler.timesteps

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        return noise * self._scheduler.init_noise_sigma

    def step(self, prediction: torch.Tensor, index: int, x_t: torch.Tensor) -> torch.Tensor:
        timestep = self.timesteps[index]

        return self._scheduler.step(prediction, timestep, x_t, return_dict=False)[0]


def require_steps(steps: int, most: int) -> None:
    """Raise ``ValueError`` for a number of steps that a schedule does not have."""
    if not 1 <= steps <= most:
        raise ValueError(f"{steps} sampler steps: give 1 to {most}")

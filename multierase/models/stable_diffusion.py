"""Stable Diffusion 1 and 2: a U-Net with cross-attention, one causal text tower."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from multierase.models.conditioning import Conditioning
from multierase.models.model import Adjust, Model, Sampler, Weights, hooked
from multierase.models.text import TextEncoder

COMPONENT = "unet."


class StableDiffusion(Model):
    """Stable Diffusion 1.x or 2.x, epsilon or v-prediction, in any size.

    Args:
        pipeline: it is used as it is, with its weights frozen.
        name: what it was loaded from.
    """

    family = "stable-diffusion"
    streams = ("tokens",)

    def __init__(self, pipeline: StableDiffusionPipeline, name: str):
        self.pipeline, self.name = pipeline, name
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            module.eval().requires_grad_(False)

        self.components = {"unet": pipeline.unet}
        self.text = TextEncoder(pipeline.tokenizer, pipeline.text_encoder)
        pipeline.set_progress_bar_config(disable=True)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        config = self._unet.config

        return config.in_channels, config.sample_size, config.sample_size

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"tokens": self.text(prompts)})

    def tokens(self, prompts: Sequence[str], stream: str = "tokens") -> torch.Tensor:
        return self.text(prompts).flatten(0, 1).cpu()

    def fresh_tokens(self, prompts: Sequence[str], stream: str = "tokens") -> torch.Tensor:
        return self.text.fresh(prompts).flatten(0, 1).cpu()

    def own_tokens(self, prompts: Sequence[str], stream: str = "tokens") -> torch.Tensor:
        return self.text.own_tokens(prompts).cpu()

    def token_count(self, prompt: str, stream: str = "tokens") -> int:
        return len(self.text.token_ids(prompt))

    def words(self) -> list[str]:
        return self.text.words

    def reads_whole(self, prompt: str) -> bool:
        return self.text.reads_whole(prompt)

    def name_of_tokens(self, count: int, generator: random.Random) -> str:
        return self.text.name_of_tokens(count, generator)

    def require_representable(self, prompt: str) -> None:
        self.text.require_representable(prompt)

    def warn_if_cut(self, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            self.text.token_ids(prompt)

    def predict(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        weights: Weights | None = None,
    ) -> torch.Tensor:
        inputs = (x_t.to(self.dtype), t, conditioning["tokens"].to(self.dtype))
        if weights is None:
            output = self._unet(*inputs, return_dict=False)[0]
        else:
            # The student's weights stand in for this one call; the frozen module stays as it is.
            own = {name.removeprefix(COMPONENT): weight for name, weight in weights.items()}
            output = torch.func.functional_call(self._unet, own, inputs, {"return_dict": False})[0]

        config = self.pipeline.scheduler.config
        return self._epsilon(output, x_t, t) if config.prediction_type == "v_prediction" else output

    def sampler(self, steps: int) -> Sampler:
        scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        most = scheduler.config.num_train_timesteps
        if not 1 <= steps <= most:
            raise ValueError(f"{steps} sampler steps: give 1 to {most}")

        scheduler.set_timesteps(steps, device=self.device)
        return DDIM(scheduler)

    def guide(
        self, eps_concept: torch.Tensor, eps_null: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return ``ε(∅) + scale (ε(c) − ε(∅))``."""
        return eps_null + scale * (eps_concept - eps_null)

    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        # Not through the cache: an eraser may have changed the text tower's own weights.
        with torch.no_grad():
            prompt, empty = self.pipeline.encode_prompt(list(prompts), self.device, 1, guided)
        inputs = {"prompt_embeds": prompt, "negative_prompt_embeds": empty}

        return {name: tensor for name, tensor in inputs.items() if tensor is not None}

    @contextlib.contextmanager
    def checkpointed(self) -> Iterator[None]:
        before = self._unet.is_gradient_checkpointing
        self._unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            if not before:
                self._unet.disable_gradient_checkpointing()

    def unconditional(self, prompt: str) -> contextlib.AbstractContextManager[None]:
        negative = self.text([prompt])

        def instead(unet, args, kwargs):
            _, asked = kwargs["encoder_hidden_states"].chunk(2)
            text = torch.cat([negative.to(asked.dtype).expand_as(asked), asked])
            return args, {**kwargs, "encoder_hidden_states": text}

        return hooked(self._unet.register_forward_pre_hook(instead, with_kwargs=True))

    def adjusted(self, adjust: Adjust) -> contextlib.AbstractContextManager[None]:
        scheduler, run = self.pipeline.scheduler, None

        def guided(unet, args, kwargs, output):
            nonlocal run
            eps_null, eps_prompt = output[0].chunk(2)
            # Every call of the pipeline makes timesteps of its own.
            first, run = run is not scheduler.timesteps, scheduler.timesteps

            def predict(prompt: str) -> torch.Tensor:
                text = self.text([prompt]).to(eps_prompt.dtype).expand(len(eps_prompt), -1, -1)
                latents, time = args[0].chunk(2)[1], args[1]
                # Not the module's call, which would come here again.
                return unet.forward(latents, time, **{**kwargs, "encoder_hidden_states": text})[0]

            return (torch.cat([eps_null, adjust(eps_null, eps_prompt, predict, first)]),)

        return hooked(self._unet.register_forward_hook(guided, with_kwargs=True))

    @property
    def _unet(self):
        return self.components["unet"]

    def _epsilon(self, v: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Turn a prediction of ``v`` into one of the noise: ``ε = √ᾱ v + √(1 − ᾱ) x_t``."""
        signal = self.pipeline.scheduler.alphas_cumprod.to(v.device)[t].view(-1, 1, 1, 1)

        return signal.sqrt().to(v.dtype) * v + (1 - signal).sqrt().to(v.dtype) * x_t


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

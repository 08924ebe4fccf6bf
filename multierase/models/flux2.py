"""FLUX.2 klein: a joint-attention transformer, and the tokens of one language model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from einops import rearrange

from multierase.models import guidance
from multierase.models.conditioning import Conditioning
from multierase.models.flow import FlowModel
from multierase.models.guidance import Adjust
from multierase.models.text import ChatReader, Text

LENGTH = 512  # tokens, the pipeline's default
PATCH = 2  # the VAE's latents on a side that are one token
TIMES = 1000  # the sampler's unit of time, to the transformer's


class Flux2Klein(FlowModel):
    """FLUX.2 klein, of any size: the base, or the distilled one, which has no guidance.

    Qwen3 reads the prompt in its chat template; hidden states of three layers lie side by side.
    Latents are those that the transformer reads, one token each: two by two of the VAE's.

    Args:
        pipeline: it is used as it is, with its weights frozen.
        name: what it was loaded from.
        t5_length: tokens of a prompt that Qwen3 reads, the chat template's included.

    Raises:
        ValueError: for a length that the chat template fills, or a tokenizer that pads before the
            prompt.
    """

    family = "flux-2-klein"
    patch = 1
    streams = ("tokens",)

    def __init__(self, pipeline: Flux2KleinPipeline, name: str, t5_length: int = LENGTH):
        super().__init__(pipeline, name, {"transformer": pipeline.transformer})
        self.guided = not pipeline.config.is_distilled
        self._length = t5_length
        reader = ChatReader(pipeline.tokenizer, t5_length)
        _require_room(reader)
        spans = {"tokens": {0: slice(None)}}
        self.text = Text([reader], pipeline.text_encoder, self._encode, spans)

    @property
    def _own_latent_shape(self) -> tuple[int, int]:
        return self._denoiser.config.in_channels, self.pipeline.default_sample_size // PATCH

    @property
    def scale(self) -> int:
        return PATCH * self.pipeline.vae_scale_factor

    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        inputs = {"prompt_embeds": self._embeds(list(prompts))}
        if guided and self.guided:
            inputs["negative_prompt_embeds"] = self._embeds([""] * len(prompts))

        return inputs

    def unconditional(self, prompt: str) -> contextlib.AbstractContextManager[None]:
        self._require_guidance()

        return guidance.unconditional_in_turn(self.pipeline, self._denoiser, self._said(prompt))

    def adjusted(self, adjust: Adjust) -> contextlib.AbstractContextManager[None]:
        self._require_guidance()

        return guidance.adjusted_in_turn(self.pipeline, self._denoiser, self._said, adjust)

    def _encode(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        return {"tokens": self._embeds(prompts)}

    @torch.no_grad()
    def _embeds(self, prompts: list[str]) -> torch.Tensor:
        tokens, _ = self.pipeline.encode_prompt(
            prompts, self.device, max_sequence_length=self._length
        )

        return tokens

    def _shift(self, config: Any, steps: int) -> float:
        return compute_empirical_mu(self._image_tokens, steps)

    def _sigmas(self, steps: int) -> list[float]:
        return np.linspace(1.0, 1 / steps, steps).tolist()

    def _text_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return {"encoder_hidden_states": conditioning["tokens"]}

    def _arguments(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> dict[str, Any]:
        count, _, height, width = x_t.shape
        length = conditioning["tokens"].shape[1]

        return {
            "hidden_states": rearrange(x_t, "b c h w -> b (h w) c"),
            "timestep": (t.to(x_t.dtype) / TIMES).expand(count),
            "img_ids": _places(height, width, 1, x_t.device),
            "txt_ids": _places(1, 1, length, x_t.device),
            **self._text_arguments(conditioning),
        }

    def _prediction(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return rearrange(output, "b (h w) c -> b c h w", h=x_t.shape[-2])


def _places(height: int, width: int, length: int, device: torch.device) -> torch.Tensor:
    """Return ``(n, 4)``: each token's picture, row, column and place in the text."""
    sides = (torch.arange(side, device=device) for side in (1, height, width, length))

    return torch.cartesian_prod(*sides)


def _require_room(reader: ChatReader) -> None:
    template = reader.begin + reader.end
    if reader.max_length <= template:
        raise ValueError(
            f"Qwen3 cannot read a prompt in {reader.max_length} tokens: its chat template has "
            f"{template}, give more"
        )
    if reader.tokenizer.padding_side != "right":
        raise ValueError("a tokenizer that pads before the prompt is not supported: pad after it")

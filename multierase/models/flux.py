"""FLUX.1: a joint-attention transformer, T5's tokens and CLIP's pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from einops import rearrange

from multierase.models.conditioning import Conditioning
from multierase.models.flow import FlowModel
from multierase.models.text import PromptReader, Text

T5_LENGTH = 512  # tokens, the pipeline's default
PATCH = 2  # latents on a side that are one token
TIMES = 1000  # the sampler's unit of time, to the transformer's
NO_GUIDANCE = 1.0


class Flux(FlowModel):
    """FLUX.1, dev or schnell.

    Both are distilled and make pictures without classifier-free guidance. The scale of dev is an
    input of its transformer: predictions here have a scale of 1, so that they are those of the
    prompt alone, and ``guide`` combines two of them. Its pipeline takes a scale of its own.

    Args:
        pipeline: it is used as it is, with its weights frozen.
        name: what it was loaded from.
        t5_length: tokens of a prompt that T5 reads.
    """

    family = "flux"
    streams = ("tokens", "pooled")
    guided = False

    def __init__(self, pipeline: FluxPipeline, name: str, t5_length: int = T5_LENGTH):
        super().__init__(pipeline, name, {"transformer": pipeline.transformer})
        self._t5_length = t5_length
        readers = [PromptReader(pipeline.tokenizer), PromptReader(pipeline.tokenizer_2, t5_length)]
        spans = {"tokens": {1: slice(None)}}
        self.text = Text(readers, pipeline.text_encoder, self._encode, spans)

    @property
    def _own_latent_shape(self) -> tuple[int, int]:
        return self._denoiser.config.in_channels // PATCH**2, self.pipeline.default_sample_size

    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            tokens, pooled, _ = self.pipeline.encode_prompt(
                list(prompts), None, self.device, max_sequence_length=self._t5_length
            )

        return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}

    def _sigmas(self, steps: int) -> list[float]:
        return np.linspace(1.0, 1 / steps, steps).tolist()

    def _arguments(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> dict[str, Any]:
        count, _, height, width = x_t.shape
        rows, columns = torch.meshgrid(
            torch.arange(height // PATCH), torch.arange(width // PATCH), indexing="ij"
        )
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
        guidance = None
        if self._denoiser.config.guidance_embeds:
            guidance = torch.full([count], NO_GUIDANCE, device=x_t.device)

        return {
            "hidden_states": rearrange(x_t, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH),
            "timestep": (t.to(x_t.dtype) / TIMES).expand(count),
            "guidance": guidance,
            "img_ids": places.to(x_t),
            "txt_ids": x_t.new_zeros(conditioning["tokens"].shape[1], 3),
            **self._text_arguments(conditioning),
        }

    def _prediction(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        height = x_t.shape[-2] // PATCH

        return rearrange(output, "b (h w) (c p q) -> b c (h p) (w q)", h=height, p=PATCH, q=PATCH)

"""Stable Diffusion XL: a U-Net with cross-attention, two text towers and a pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from multierase.models.conditioning import Conditioning
from multierase.models.model import named_inputs
from multierase.models.text import PromptReader, Text
from multierase.models.unet import UNetModel


class StableDiffusionXL(UNetModel):
    """Stable Diffusion XL, epsilon or v-prediction, in any size.

    Both towers read the same tokens; their penultimate layers lie side by side. The second one's
    pooled vector goes to the U-Net beside the picture's size, so that no parameter reads it alone.

    Args:
        pipeline: it is used as it is, with its weights frozen.
        name: what it was loaded from.
    """

    family = "stable-diffusion-xl"
    streams = ("tokens",)

    def __init__(self, pipeline: StableDiffusionXLPipeline, name: str):
        super().__init__(pipeline, name, {"unet": pipeline.unet})
        readers = [PromptReader(pipeline.tokenizer), PromptReader(pipeline.tokenizer_2)]
        spans = {"tokens": {0: slice(None)}}
        self.text = Text(readers, pipeline.text_encoder, self._encode, spans)

    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            encoded = self.pipeline.encode_prompt(
                list(prompts), device=self.device, do_classifier_free_guidance=guided
            )

        return named_inputs(encoded)

    def _text_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return {
            "encoder_hidden_states": conditioning["tokens"],
            "added_cond_kwargs": {"text_embeds": conditioning["pooled"]},
        }

    def _arguments(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> dict[str, Any]:
        arguments = super()._arguments(x_t, t, conditioning)
        # The size of a whole picture, from which nothing was cut.
        pixels = tuple(side * self.pipeline.vae_scale_factor for side in x_t.shape[-2:])
        sizes = torch.tensor([*pixels, 0, 0, *pixels], device=x_t.device, dtype=x_t.dtype)
        arguments["added_cond_kwargs"]["time_ids"] = sizes.expand(len(x_t), -1)

        return arguments

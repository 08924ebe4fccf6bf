"""Stable Diffusion 1 and 2: a U-Net with cross-attention, one causal text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from multierase.models.conditioning import Conditioning
from multierase.models.model import named_inputs
from multierase.models.text import PromptReader, Text
from multierase.models.unet import UNetModel


class StableDiffusion(UNetModel):
    """Stable Diffusion 1.x or 2.x, epsilon or v-prediction, in any size.

    Args:
        pipeline: it is used as it is, with its weights frozen.
        name: what it was loaded from.
    """

    family = "stable-diffusion"
    streams = ("tokens",)

    def __init__(self, pipeline: StableDiffusionPipeline, name: str):
        super().__init__(pipeline, name, {"unet": pipeline.unet})
        reader, whole = PromptReader(pipeline.tokenizer), slice(None)
        self.text = Text([reader], pipeline.text_encoder, self._encode, {"tokens": {0: whole}})

    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        # Not through the cache: an eraser may have changed the text tower's own weights.
        with torch.no_grad():
            encoded = self.pipeline.encode_prompt(list(prompts), self.device, 1, guided)

        return named_inputs(encoded)

    def _encode(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        tower = self.pipeline.text_encoder
        (reader,) = self.text.readers
        padded = reader.tokenizer(
            prompts, padding="max_length", truncation=True, return_tensors="pt"
        )

        return {"tokens": tower(padded.input_ids.to(tower.device)).last_hidden_state}

    def _text_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return {"encoder_hidden_states": conditioning["tokens"]}

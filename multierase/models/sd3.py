"""Stable Diffusion 3: a joint-attention transformer, two CLIP towers, and T5 if it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

from multierase.models.conditioning import Conditioning
from multierase.models.flow import FlowModel
from multierase.models.model import named_inputs
from multierase.models.text import PromptReader, Text

T5_LENGTH = 256  # tokens, the pipeline's default


class StableDiffusion3(FlowModel):
    """Stable Diffusion 3 or 3.5, with T5 or without.

    CLIP's tokens come first, then T5's; without T5 its rows are 0. Two linear layers alone read
    text that nothing else was mixed into: the tokens' embedder, and the pooled vector's first.

    Args:
        pipeline: it is used as it is, with its weights frozen.
        name: what it was loaded from.
        t5_length: tokens of a prompt that T5 reads; without T5, rows of zeros in its place.
    """

    family = "stable-diffusion-3"
    streams = ("tokens", "pooled")

    def __init__(self, pipeline: StableDiffusion3Pipeline, name: str, t5_length: int = T5_LENGTH):
        super().__init__(pipeline, name, {"transformer": pipeline.transformer})
        self._t5_length = t5_length
        clip = pipeline.tokenizer_max_length
        readers = [PromptReader(pipeline.tokenizer), PromptReader(pipeline.tokenizer_2)]
        rows = {0: slice(None)}
        if pipeline.text_encoder_3 is not None:
            readers.append(PromptReader(pipeline.tokenizer_3, t5_length))
            rows = {0: slice(clip), 2: slice(clip, None)}
        self.text = Text(readers, pipeline.text_encoder, self._encode, {"tokens": rows})

    def pipeline_inputs(self, prompts: Sequence[str], guided: bool) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            encoded = self.pipeline.encode_prompt(
                list(prompts),
                None,
                None,
                self.device,
                1,
                guided,
                max_sequence_length=self._t5_length,
            )

        return named_inputs(encoded)

    def _arguments(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> dict[str, Any]:
        return {"hidden_states": x_t, "timestep": t, **self._text_arguments(conditioning)}
